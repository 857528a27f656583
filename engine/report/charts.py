"""Charts as SVG: drawn at the size at which they are read, coloured by the page's style sheet, no script.

A chart is WIDTH units wide, which is about its width in pixels on a page of any width: text keeps its size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 400, 236
COLOURS = 10  # .c0 to .c9 in page.css
POINTS = 240  # of a line; more would not be seen
DIGIT = 6.3  # width of a digit of 11 px
CELLS = 30  # rows of a confusion matrix that are drawn
NAME = 14  # letters of a name beside it
FLAT = 3  # letters of a name that stands above its column as it is, longer ones on their side


@dataclass
class Line:
    """Points with rising x. `colour` counts from 0, None is grey; `bold` and `faint` set it off; `dots` mark points."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int | None = 0
    bold: bool = False
    faint: bool = False
    dots: bool = False


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at or above `low` to at or below `high`, their step 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) + 0.0 for k in range(first, math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Short and exact enough for an axis: 12k, 0.25, 3e-05."""
    if value == 0:
        return "0"
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.4g}M"
    if size >= 1e4:
        return f"{value / 1e3:.4g}k"
    if size < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.4g}"


def thinned(x: NDArray, y: NDArray, points: int = POINTS, mean: bool = True) -> tuple[NDArray, NDArray]:
    """At most `points` points: means of neighbours, or every n-th and the last."""
    if len(x) <= points:
        return x, y
    if not mean:
        places = np.unique(np.linspace(0, len(x) - 1, points).round().astype(int))
        return x[places], y[places]
    groups = np.array_split(np.arange(len(x)), points)
    return np.array([x[g].mean() for g in groups]), np.array([y[g].mean() for g in groups])


def line_chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    mean: bool = True,
    note: str = "",
    from_zero: bool = False,
) -> str:
    """A figure with its legend below; empty text where no line has a finite point.

    The y axis is logarithmic where all values are positive and the largest is 50 times the smallest; it says so. Where
    `from_zero` is asked for it is not.
    """
    drawn = []
    for line in lines:
        x, y = np.asarray(line.x, float), np.asarray(line.y, float)
        there = np.isfinite(x) & np.isfinite(y)
        if there.any():
            drawn.append((line, *thinned(x[there], y[there], mean=mean)))
    if not drawn:
        return ""
    everything = np.concatenate([y for _, _, y in drawn])
    log = y_range is None and not from_zero and everything.min() > 0 and everything.max() / everything.min() > 50
    x_low, x_high = x_range or (min(x.min() for _, x, _ in drawn), max(x.max() for _, x, _ in drawn))
    if x_low == x_high:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    y_low, y_high, y_ticks = _y_axis(np.append(everything, 0) if from_zero else everything, y_range, log)
    left = 12 + DIGIT * max(len(number(value)) for value in y_ticks)
    top, bottom, right = 26, HEIGHT - 34, WIDTH - 14

    def across(value: float) -> float:
        return left + (value - x_low) / (x_high - x_low) * (right - left)

    def down(value: float) -> float:
        value, low, high = (math.log10(v) if log else v for v in (value, y_low, y_high))
        return bottom - (value - low) / (high - low) * (bottom - top)

    body = [f'<text class="label" x="0" y="12">{escape(y_label)}{", log scale" if log else ""}</text>']
    for value in y_ticks:
        y = down(value)
        body.append(f'<line class="grid" x1="{left:.1f}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        body.append(f'<text class="tick" x="{left - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in ticks(x_low, x_high, 5):
        x = min(across(value), right - DIGIT * len(number(value)) / 2 + 12)
        body.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{number(value)}</text>')
    body.append(f'<line class="axis" x1="{left:.1f}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    body.append(f'<text class="label" x="{right}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_label)}</text>')
    for line, x, y in sorted(drawn, key=lambda entry: entry[0].bold):
        points = [(across(a), down(min(max(b, y_low), y_high))) for a, b in zip(x, y, strict=True)]
        kind = " ".join(["line", _class(line), *["bold"] * line.bold, *["faint"] * line.faint])
        if len(points) > 1:
            path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
            body.append(f'<polyline class="{kind}" points="{path}"/>')
        if line.dots or len(points) == 1:
            body += [f'<circle class="dot {_class(line)}" cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>' for a, b in points]
    named = [line for line, _, _ in drawn if line.name]
    legend = "".join(
        f'<li><i class="{_class(line)}{" bold" * line.bold}"></i>{escape(line.name)}</li>' for line in named
    )
    said = ", ".join(f"{line.name or y_label} from {number(y[0])} to {number(y[-1])}" for line, _, y in drawn[:4])
    alt = f"{title}: {y_label} over {x_label}. {said}{', and others' if len(drawn) > 4 else ''}."
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(alt)}">{"".join(body)}</svg>'
        + (f'<ul class="legend">{legend}</ul>' if named else "")
        + (f'<p class="note">{escape(note)}</p>' if note else "")
        + "</figure>"
    )


def _cell(count: int, share: float | None) -> str:
    """At most four signs."""
    if share is not None:
        return f"{100 * share:.0f}" if share >= 0.005 else "·"
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 999_500 else f"{count / 1e6:.0f}M"


def _class(line: Line) -> str:
    return "grey" if line.colour is None else f"c{line.colour % COLOURS}"


def _y_axis(values: NDArray, y_range: tuple[float, float] | None, log: bool) -> tuple[float, float, list[float]]:
    """Ends and ticks; the ends are ticks, or for a logarithm powers of ten or parts of such."""
    if y_range is not None:
        return *y_range, ticks(*y_range)
    low, high = float(values.min()), float(values.max())
    if log:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every = max(1, (last - first) // 5)
        return 10.0**first, 10.0**last, [10.0**power for power in range(first, last + 1, every)]
    if low == high:
        margin = abs(low) * 0.1 or 0.5
        low, high = low - margin, high + margin
    if 0 < low < 0.6 * high:
        low = 0.0
    marks = ticks(low, high)
    step = marks[1] - marks[0] if len(marks) > 1 else high - low
    low = marks[0] if marks[0] <= low + step * 0.01 else marks[0] - step
    high = marks[-1] if marks[-1] >= high - step * 0.01 else marks[-1] + step
    return low, high, ticks(low, high, round((high - low) / step))


def matrix_chart(
    title: str, counts: NDArray[np.int64], names: Sequence[str], note: str = "", percent: bool = False
) -> str:
    """Counts by truth (rows) and prediction (columns): shares of a row by colour, few classes with their numbers.

    Of more than CELLS classes those with the most mistakes are drawn. `percent`: the numbers are shares of a row.
    """
    shown, said = np.arange(len(names)), ""
    if len(names) > CELLS:
        mistakes = counts.sum(0) + counts.sum(1) - 2 * counts.diagonal()
        shown = np.sort(np.argsort(-mistakes, kind="stable")[:CELLS])
        said = f"The {CELLS} of {len(names)} classes with the most mistakes; shares are of all of a row. "
    totals = np.maximum(counts.sum(axis=1), 1)
    cell = 34 if len(shown) <= 12 else 24 if len(shown) <= 20 else 17
    labels = [str(names[k]) if len(str(names[k])) <= NAME else str(names[k])[: NAME - 1] + "…" for k in shown]
    longest = max(len(label) for label in labels)
    left = 24 + 7 * longest
    top = 42 if longest <= FLAT else 30 + 7 * longest
    width, height = left + cell * len(shown) + 8, top + cell * len(shown) + 8
    body = [
        f'<text class="label" x="{left}" y="12">prediction</text>',
        f'<text class="label" x="12" y="{top + cell * len(shown) / 2:.0f}" text-anchor="middle" '
        f'transform="rotate(-90 12 {top + cell * len(shown) / 2:.0f})">truth</text>',
    ]
    for place, label in enumerate(labels):
        middle = cell * (place + 0.5)
        body.append(
            f'<text class="tick" x="{left - 6}" y="{top + middle + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        )
        steep = len(label) > FLAT
        turn = f' transform="rotate(-90 {left + middle + 4:.1f} {top - 6})"' if steep else ""
        anchor = "start" if steep else "middle"
        x = left + middle + (4 if steep else 0)
        body.append(f'<text class="tick" x="{x:.1f}" y="{top - 6}" text-anchor="{anchor}"{turn}>{escape(label)}</text>')
    body.append(f'<rect class="frame" x="{left}" y="{top}" width="{cell * len(shown)}" height="{cell * len(shown)}"/>')
    for row, truth in enumerate(shown):
        for column, found in enumerate(shown):
            count = int(counts[truth, found])
            if not count:
                continue
            share = count / totals[truth]
            x, y = left + cell * column, top + cell * row
            kind = "hit" if truth == found else "miss"
            tip = f"{names[truth]} taken for {names[found]}: {count:,}, {share:.1%} of the row"
            body.append(
                f'<rect class="{kind}" x="{x + 0.5}" y="{y + 0.5}" width="{cell - 1}" height="{cell - 1}" '
                f'fill-opacity="{0.12 + 0.88 * share:.2f}"><title>{escape(tip)}</title></rect>'
            )
            if cell >= 34:
                strong = " strong" if share > 0.5 else ""
                body.append(
                    f'<text class="count{strong}" x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle">'
                    f"{_cell(count, share if percent else None)}</text>"
                )
    right = counts.diagonal().sum() / max(counts.sum(), 1)
    alt = f"{title}: {len(names)} by {len(names)}, {right:.1%} of {counts.sum():,} on the diagonal."
    return (
        f'<figure class="chart matrix"><figcaption>{escape(title)}</figcaption>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}">'
        f'<svg style="min-width: {0.75 * width:.0f}px; max-width: {width}px" viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(alt)}">{"".join(body)}</svg></div>'
        f'<p class="note">{escape(said + note)}</p></figure>'
    )
