"""Accuracy over speed as a picture, with the Pareto front; labels keep clear of one another and of the points."""

import itertools
import math
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from matplotlib.transforms import Bbox

from bestiary.errors import InputError
from bestiary.tools.compare_tables import grouped, main_metric, placed

SUFFIXES = ".svg", ".png"
NARROWEST = 3.5  # inches; below it the axis' words do not fit
PANELS = 6
MARKS = {"bestiary": ("o", "#1f5fa8"), "timm": ("s", "#c2571a"), "config": ("D", "#3a7d44"), "run": ("^", "#7a3e9d")}
WHOSE = {"bestiary": "Bestiary", "timm": "timm", "config": "a config", "run": "a run"}
DIRECTIONS = [math.radians(angle) for angle in (0, 180, 45, 135, -45, -135, 90, -90, 20, 160, -20, -160, 70, 110, -70)]
NEAR, RINGS = 3, 80  # steps of 4 pixels from a point: to where a label needs no line, and as far as one is looked for
CLEAR = 2.0  # pixels, between a label and whatever it must not touch
STYLE = {
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "bestiary",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def need_format(path: str, width: float) -> None:
    """Raises InputError: not a name of a picture that can be drawn, or too narrow."""
    if Path(path).suffix not in SUFFIXES:
        raise InputError(f"--plot {path}: a picture is written as {' or '.join(SUFFIXES)}; name it so")
    if not width >= NARROWEST:
        raise InputError(f"--plot-width {width:g}: the picture needs {NARROWEST} inches at least")


def draw(path: str, record: dict[str, Any], rows: list[dict[str, Any]], width: float) -> list[str]:
    """Draw a panel a setting; returns what was left out, in words.

    Raises:
        InputError: no contender has both a speed and an accuracy; too many settings.
    """
    metric = main_metric(record)
    groups = grouped(record, rows)
    if len(groups) > PANELS:
        raise InputError(f"--plot: {len(groups)} settings, a panel each, do not fit a picture; {PANELS} do")
    drawn = [(title, [row for row in group if placed(row, metric)]) for title, group in groups]
    if not drawn or not all(points for _, points in drawn):
        raise InputError("--plot: nothing has both a speed in inference and an accuracy of one kind")
    figure, _ = plotted(drawn, metric, width)
    figure.savefig(path, dpi=160, metadata={"Date": None} if path.endswith(".svg") else None)
    shown = {row["name"] for row in drawn[0][1]}
    if absent := [name for name in record["contenders"] if name not in shown]:
        return [f"{path}: not drawn, no {metric} is known of them: {', '.join(absent)}"]
    return []


def plotted(
    groups: list[tuple[str, list[dict[str, Any]]]], metric: str, width: float
) -> tuple[Figure, list[list[Annotation]]]:
    """The figure, and the labels of each panel."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(width, max(1.4 + 0.45 * width, 4.2) * len(groups)), layout="constrained", facecolor="white"
        )
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
        for axes, (title, points) in zip(panels, groups, strict=True):
            panel(axes, title, points, metric, width)
        handles = {
            name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
        figure.canvas.draw()  # settles the layout, in which the labels find their places
        figure.set_layout_engine("none")
        return figure, [label(axes, points) for axes, (_, points) in zip(panels, groups, strict=True)]


def panel(axes: Axes, title: str, points: list[dict[str, Any]], metric: str, width: float) -> None:
    """Axes, points and front of one setting."""
    axes.set_title(textwrap.fill(title, int(width * 13)), fontsize=9, loc="left")
    axes.set_xlabel("inference, pictures/s (median; logarithmic)")
    axes.set_ylabel(f"{metric}, %")
    axes.set_xscale("log")
    speeds = [row["inference_pictures_s"] for row in points]
    heights = [row["accuracy"] for row in points]
    spread = max(max(heights) - min(heights), 1.0)
    axes.set_ylim(min(heights) - 0.22 * spread, max(heights) + 0.22 * spread)
    ratio = max(max(speeds) / min(speeds), 2.0) ** 0.25
    axes.set_xlim(min(speeds) / ratio, max(speeds) * ratio)
    decades = math.log10(axes.get_xlim()[1] / axes.get_xlim()[0])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2 or width > 5 else (1, 3)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    front = sorted((row["inference_pictures_s"], row["accuracy"]) for row in points if row["pareto"])
    axes.plot(*zip(*front, strict=True), color="#999999", linewidth=1.2, linestyle="--", label="Pareto front", zorder=2)
    for whose, (mark, colour) in MARKS.items():
        here = [row for row in points if row["whose"] == whose]
        if here:
            x, y = [row["inference_pictures_s"] for row in here], [row["accuracy"] for row in here]
            axes.scatter(x, y, marker=mark, color=colour, s=34, label=WHOSE[whose], zorder=3)


def label(axes: Axes, points: list[dict[str, Any]]) -> list[Annotation]:
    """A name beside each point, at the nearest place where it touches no point, no line, no other name, no border."""
    renderer = axes.figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)

    def pixels(row: dict[str, Any]) -> tuple[float, float]:
        return tuple(axes.transData.transform((row["inference_pictures_s"], row["accuracy"])))

    points = sorted(points, key=lambda row: (-row["accuracy"], row["inference_pictures_s"]))
    marks = [around(*pixels(row), 5) for row in points]
    front = [pixels(row) for row in points if row["pareto"]]
    lines = [box for one, other in itertools.pairwise(front) for box in along(one, other)]
    names: list[Bbox] = []
    labels = []
    for row in points:
        x, y = pixels(row)
        text = axes.annotate(
            named(row),
            (row["inference_pictures_s"], row["accuracy"]),
            xytext=(0, 0),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            zorder=4,
        )
        size = text.get_window_extent(renderer)
        place = free_place((x, y), (size.width, size.height), frame, marks, lines, names)
        scale = 72 / axes.figure.dpi
        text.set_position(((place.middle[0] - x) * scale, (place.middle[1] - y) * scale))
        names.append(text.get_window_extent(renderer))
        labels.append(text)
        if place.leader:
            lines += place.leader
            ends = [axes.transData.inverted().transform(end) for end in ((x, y), place.end)]
            axes.plot(*zip(*ends, strict=True), color="#888888", linewidth=0.6, zorder=1)
    return labels


def named(row: dict[str, Any]) -> str:
    """The name of a point; with the size of the pictures that it was scored on, where it was timed on others."""
    scored = row.get("accuracy_at")
    return row["name"] if scored in (None, row.get("size")) else f"{row['name']} (scored at {scored})"


class Place(NamedTuple):
    """Where a label goes, in pixels."""

    middle: tuple[float, float]
    end: tuple[float, float]  # of the line that leads to it
    leader: list[Bbox]  # along that line; none where the label is near enough


def around(x: float, y: float, half: float) -> Bbox:
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def along(one: tuple[float, float], other: tuple[float, float]) -> list[Bbox]:
    """Small boxes along a line."""
    count = max(int(math.dist(one, other) / 4), 1)
    return [
        around(*(a + (b - a) * step / count for a, b in zip(one, other, strict=True)), 1) for step in range(count + 1)
    ]


def free_place(
    point: tuple[float, float],
    size: tuple[float, float],
    frame: Bbox,
    marks: list[Bbox],
    lines: list[Bbox],
    names: list[Bbox],
) -> Place:
    """The nearest place of a label of `size` for a point, in pixels.

    Args:
        marks, names: boxes of points, and of labels that have their places: it touches none of them.
        lines: boxes along lines: where the picture is crowded, a label may lie on one.
            A line that leads to the label does not cross another's name, unless there is no other way.

    Raises:
        InputError: there is none in the frame.
    """
    (x, y), (width, height) = point, size
    crossed = extents(names)
    for blocked, may_cross in ((marks + names + lines, False), (marks + names, False), (marks + names, True)):
        blocked = extents(blocked)
        for ring, direction in itertools.product(range(RINGS), DIRECTIONS):
            gap = 8 + 4 * ring
            middle = x + math.cos(direction) * (gap + width / 2), y + math.sin(direction) * (gap + height / 2)
            box = Bbox.from_bounds(middle[0] - width / 2, middle[1] - height / 2, width, height).padded(CLEAR)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
            if not inside or touches(box, blocked):
                continue
            end = min(max(x, box.x0), box.x1), min(max(y, box.y0), box.y1)
            leader = along(point, end)[2:] if ring > NEAR else []
            if may_cross or not any(touches(part, crossed) for part in leader):
                return Place(middle, end, leader)
    raise InputError("--plot: the names do not fit the picture: make it wider by --plot-width, or compare fewer")


def extents(boxes: list[Bbox]) -> np.ndarray:
    """(N, 4): left, bottom, right, top."""
    return np.array([box.extents for box in boxes]).reshape(-1, 4)


def touches(box: Bbox, others: np.ndarray) -> bool:
    """Whether it overlaps one of the others, given as `extents` has them."""
    left, bottom, right, top = others.T
    return bool(((left <= box.x1) & (box.x0 <= right) & (bottom <= box.y1) & (box.y0 <= top)).any())
