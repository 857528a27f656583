"""The parts of the page, each as HTML; empty text where a run has nothing to show there."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from ..progress import clock
from . import words
from .charts import COLOURS, Line, line_chart, matrix_chart
from .collect import BEST_CLASSES, SHOWN
from .curves import RECALLS, ClassCurve
from .evidence import Evidence, confusion_of, curves_of
from .pictures import picture_cards
from .runs import Run

MAIN_LINES = 10  # classes whose precision-recall curves have a colour each
MOST_LINES = 60  # that are drawn at all
ROWS = 400  # of a table
SCORES = 16  # that are shown before the others


def table(head: Sequence[str], rows: Sequence[Sequence[str]], label: str) -> str:
    """Rows in a box that scrolls; the first column is text, all others are numbers. Cells are escaped."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in row[1:])}</tr>'
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">'
        f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def tiles(run: Run) -> str:
    """The headline figures."""
    found = []
    for name in words.leading(run.scores):
        best = run.best(name)
        note = "of the last evaluation"
        if best and best["scores"][name] > (run.scores[name] or 0):
            note = f"last; best {words.score(best['scores'][name])} at iteration {best['iter']:,}"
        found.append((words.meaning(name), words.score(run.scores[name]), note))
    _, losses = run.curve("loss")
    if losses:
        found.append(("training loss", f"{losses[-1]:.4g}", f"from {losses[0]:.4g}"))
    _, rate = words.pace(run)
    if rate:
        wait = words.waiting(run)
        note = f"training; {wait:.0%} of the time waits for data" if wait is not None else "training"
        found.append(("throughput", f"{float(np.median(rate)):.4g}", f"pictures/s, {note}"))
    memory = words.memory_of(run)
    if memory:
        what = {"gpu": "allocated on the GPU", "process": "main process, without workers"}
        key = "gpu" if "gpu" in memory else "process"
        found.append(("memory at most", words.gibibytes(memory[key]), what[key]))
    if seconds := duration(run):
        found.append(("time", clock(seconds), f"{run.iteration:,} iterations, evaluations included"))
    if run.start.get("parameters"):
        count, trained = run.start["parameters"], run.start["trainable"]
        note = "all trained" if count == trained else f"{words.size(trained)} trained"
        found.append(("parameters", words.size(count), note))
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
        for name, value, note in found
    )
    return f'<dl class="tiles">{cells}</dl>' if found else ""


def duration(run: Run) -> float:
    """Seconds of all starts together, each until it ended or last evaluated; 0 if not noted."""
    marks = [entry for entry in (*run.evaluations, run.end) if "seconds" in entry]
    total = 0.0
    for place, start in enumerate(run.starts):
        until = run.starts[place + 1]["time"] if place + 1 < len(run.starts) else math.inf
        total += max((entry["seconds"] for entry in marks if start["time"] <= entry["time"] < until), default=0.0)
    return total


def curves(runs: Sequence[Run]) -> str:
    """Loss, parts of it, learning rate, scores, throughput over iterations; several runs on one axis."""
    several, extent = len(runs) > 1, (0, max(1, *(run.iteration for run in runs)))
    found = []

    def draw(title: str, lines: Sequence[Line], label: str, **more: Any) -> None:
        found.append(line_chart(title, lines, "iteration", label, x_range=extent, **more))

    def chart(title: str, key: str, label: str, mean: bool = True) -> None:
        lines = [Line(run.name if several else "", *run.curve(key), colour=n % COLOURS) for n, run in enumerate(runs)]
        draw(title, lines, label, mean=mean)

    chart("Training loss", "loss", "loss")
    names = list(dict.fromkeys(name for run in runs for name in run.scores))
    for title, group in _groups(names):
        if several:  # the leading one alone: a line a run
            group = words.leading(dict.fromkeys(group), 1)
            title = words.meaning(group[0])
        lines = _score_lines(runs, group)
        if any(len(line.x) > 1 for line in lines):
            draw(title, lines, "score, 0 to 1", mean=False, from_zero=True)
    if not several:
        parts = [name for name in runs[0].losses() if name != "loss"][:COLOURS]
        if len(parts) > 1:
            lines = [Line(name, *runs[0].curve(name), colour=n) for n, name in enumerate(parts)]
            draw("Parts of the loss", lines, "loss")
    chart("Learning rate", "lr", "learning rate", mean=False)
    lines = [Line(run.name if several else "", *words.pace(run), colour=n % COLOURS) for n, run in enumerate(runs)]
    draw("Throughput", lines, "pictures/s", note="All processes together, while training.")
    chart("Norm of the gradient", "grad_norm", "norm")
    there = [text for text in found if text]
    return f'<div class="grid">{"".join(there)}</div>' if there else ""


def _groups(names: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Scores that belong in one chart, the leading ones first: those of a kind, without single sizes and recalls."""
    groups: dict[str, list[str]] = {}
    for name in names:
        part = name.rsplit("/", 1)[-1]
        of_a_class = part.startswith("AP_") or part.endswith("_precision") or name.startswith("IoU/")
        if of_a_class or part.endswith(("_s", "_m", "_l")) or "_AR" in part:
            continue
        stem = part.removesuffix("_50").removesuffix("_75")
        groups.setdefault(words.meaning(stem) if "mAP" in stem else name.rpartition("/")[0] or "Scores", []).append(
            name
        )
    titles = {"accuracy": "Accuracy", "multilabel": "Scores of all labels", "calibration": "Calibration"}
    return [(titles.get(title, title[:1].upper() + title[1:]), group[:COLOURS]) for title, group in groups.items()][:6]


def _score_lines(runs: Sequence[Run], group: Sequence[str]) -> list[Line]:
    if len(runs) > 1:
        return [Line(run.name, *run.score_curve(group[0]), colour=n % COLOURS, dots=True) for n, run in enumerate(runs)]
    return [
        Line(name.rsplit("/", 1)[-1], *runs[0].score_curve(name), colour=n, dots=True) for n, name in enumerate(group)
    ]


def scores(run: Run) -> str:
    """All scores of the last evaluation, with the best and when it was."""
    if not run.scores:
        return '<p class="note">No evaluation yet.</p>'
    several = len(run.evaluations) > 1
    first = words.leading(run.scores, len(run.scores))
    rows = []
    for name in [*first, *(name for name in run.scores if name not in first)]:
        value = run.scores[name]
        best = run.best(name) if several else None
        more = [words.score(best["scores"][name]), f"{best['iter']:,}"] if best else ["–", "–"] if several else []
        rows.append([name, words.score(value), *more])
    head = ["score", f"at iteration {run.evaluations[-1]['iter']:,}", *(["highest", "at iteration"] if several else [])]
    more = _folded(f"{len(rows) - SCORES} more scores", head, rows[SCORES:], False) if len(rows) > SCORES else ""
    return table(head, rows[:SCORES], "scores") + more


def classes(run: Run, evidence: Evidence | None) -> str:
    """Per class: table, precision over recall, confusion."""
    if evidence is None:
        return _tables(run)
    found = curves_of(evidence)
    parts = []
    if evidence.kind == "regions":
        parts.append(_region_table(evidence))
    else:
        parts.append(_class_table(evidence, found, run))
    charts = []
    if any(curve.occurs for curve in found):
        charts.append(_recall_chart(evidence, found))
    if (pair := confusion_of(evidence)) is not None:
        notes = {
            "classes": "Pictures by true class and best class.",
            "objects": f"Detections of a score from {SHOWN} on beside objects, matched by box at IoU 0.5, whatever "
            "the class; “nothing” stands for missed objects (column) and false detections (row).",
            "regions": "Pixels by true class and prediction, in percent of the row; a dot is less than half a percent.",
        }
        note = f"{notes[evidence.kind]} Colour: share of the row."
        charts.append(matrix_chart("Confusion matrix", *pair, note, percent=evidence.kind == "regions"))
        parts.append(_mistakes(*pair))
    counted = f"{evidence.pictures:,} of {evidence.total:,} pictures" if evidence.pictures < evidence.total else ""
    missing = f"parts of {evidence.parts} of {evidence.world} processes" if evidence.parts < evidence.world else ""
    said = "; ".join(text for text in (counted, missing) if text)
    intro = f"From the evaluation at iteration {evidence.iter:,}" + (f": {said}." if said else ".")
    parts = [part for part in parts if part]
    # Beside two charts a table each; beside one chart all of them.
    tables = "".join(f"<div>{part}</div>" for part in (parts if len(charts) > 1 else ["".join(parts)]))
    return f'<p class="note">{escape(intro)}</p><div class="grid wide">{"".join(charts)}{tables}</div>'


def _class_table(evidence: Evidence, found: Sequence[ClassCurve], run: Run) -> str:
    more = list(dict.fromkeys(key for curve in found for key in curve.more))
    what = {"classes": "pictures", "labels": "pictures", "objects": "objects"}[evidence.kind]
    extra = _column(run, "segm by class", "AP") if evidence.kind == "objects" else {}
    name = "box AP" if extra else "AP"
    head = ["class", what, name, *more, *(["mask AP"] if extra else [])]
    rows = [
        [curve.name, f"{curve.occurs:,}", words.score(curve.ap), *(words.score(curve.more.get(key)) for key in more)]
        + ([extra.get(curve.name, "–")] if extra else [])
        for curve in found
    ]
    return _folded(f"Scores of {len(rows)} classes", head, rows)


def _region_table(evidence: Evidence) -> str:
    matrix = evidence.arrays["confusion"].astype(float)
    hit, truth, found = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        columns = hit / (truth + found - hit), hit / truth, hit / found
    rows = [
        [str(name), f"{int(truth[k]):,}", *(words.score(float(column[k])) for column in columns)]
        for k, name in enumerate(evidence.classes)
    ]
    return _folded(f"Scores of {len(rows)} classes", ["class", "pixels", "IoU", "accuracy", "precision"], rows)


def _folded(title: str, head: Sequence[str], rows: list[list[str]], opened: bool = True) -> str:
    """A table, open where it is short and is to be."""
    cut = f"<p class='note'>The first {ROWS} of {len(rows)}.</p>" if len(rows) > ROWS else ""
    state = " open" if opened and len(rows) <= 40 else ""
    return f"<details{state}><summary>{escape(title)}</summary>{table(head, rows[:ROWS], title)}{cut}</details>"


def _column(run: Run, title: str, column: str) -> dict[str, str]:
    """Of a metric's table, by the first column; empty where the last evaluation has no such table."""
    for entry in (run.evaluations[-1].get("tables") or ()) if run.evaluations else ():
        if entry["title"] == title and column in entry["columns"]:
            place = entry["columns"].index(column)
            return {row[0]: row[place] for row in entry["rows"]}
    return {}


def _tables(run: Run) -> str:
    """The metrics' own tables, where no evidence was kept."""
    entries = (run.evaluations[-1].get("tables") or ()) if run.evaluations else ()
    return "".join(_folded(entry["title"], entry["columns"], entry["rows"]) for entry in entries)


def _recall_chart(evidence: Evidence, found: Sequence[ClassCurve]) -> str:
    there = [curve for curve in found if curve.occurs]
    few = len(there) <= MAIN_LINES
    drawn = there if len(there) <= MOST_LINES else [there[i * len(there) // MOST_LINES] for i in range(MOST_LINES)]
    lines = [
        Line(curve.name if few else "", RECALLS, curve.precision, n if few else None, faint=not few)
        for n, curve in enumerate(drawn)
    ]
    mean = np.mean([curve.precision for curve in there], axis=0)
    lines.append(Line("mean of the classes", RECALLS, mean, None if few else 0, bold=True))
    notes = {
        "objects": "Boxes at an IoU of 0.5, as COCO counts.",
        "classes": "Each class against the rest."
        + (f" From the {BEST_CLASSES} best classes of each picture." if len(found) > BEST_CLASSES else ""),
        "labels": "Each label by itself.",
    }
    said = (
        "" if few else f" Grey: {len(drawn)} of {len(there)} classes." if len(drawn) < len(there) else " Grey: a class."
    )
    note = f"{notes[evidence.kind]}{said} Precision is the highest at that recall or beyond."
    return line_chart("Precision over recall", lines, "recall", "precision", (0, 1), (0, 1), mean=False, note=note)


def _mistakes(counts: np.ndarray, names: Sequence[str], most: int = 12) -> str:
    """The mistakes that are made most often, as a table."""
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(names)) for place in order if wrong.flat[place] > 0]
    totals = np.maximum(counts.sum(axis=1), 1)
    rows = [
        [str(names[t]), str(names[p]), f"{int(counts[t, p]):,}", f"{counts[t, p] / totals[t]:.1%}"] for t, p in pairs
    ]
    return (
        _folded("Most frequent mistakes", ["truth", "prediction", "count", "share of the truth"], rows) if rows else ""
    )


def pictures(evidence: Evidence | None, count: int) -> str:
    """The worst, then the best predictions, at most `count` of each."""
    if evidence is None:
        return ""
    measures = {
        "classes": "by the probability of the true class, wrong answers last.",
        "labels": "by the likelihood of all labels together.",
        "objects": f"by panoptic quality of the boxes with a score from {SHOWN} on.",
        "regions": "by the mean IoU of a picture's classes.",
    }
    found = [f'<p class="note">Ordered {measures[evidence.kind]}</p>']
    for title, key in (("Worst", "worst"), ("Best", "best")):
        if entries := evidence.extremes[key][:count]:
            found.append(f"<h4>{title}</h4>{picture_cards(evidence, entries)}")
    return "".join(found) if len(found) > 1 else ""


def facts(run: Run) -> str:
    """Starts, command, machine and versions, config: folded."""
    start, parts = run.start, []
    if run.starts:
        rows = [
            [
                words.date(entry["time"]),
                f"{entry['iter']:,}",
                str(entry["world"]),
                f"{entry['batch_size']:,}",
                str(entry.get("device") or "–"),
            ]
            for entry in run.starts
        ]
        head = ["started", "from iteration", "processes", "batch, all together", "device"]
        parts.append(_section("Starts", table(head, rows, "starts")))
        known = {"command": start["command"], **start["machine"], "threads": f"{start['threads']} a process"}
        if start.get("train_pictures"):
            known["training data"] = f"{start['train_pictures']:,} pictures"
        for key, value in words.memory_of(run).items():
            known[f"memory at most, {'GPU' if key == 'gpu' else 'main process'}"] = words.gibibytes(value)
        parts.append(_section("Command and machine", _pairs(known)))
        parts.append(_section("Versions", _pairs(start["versions"])))
    if run.config:
        parts.append(_section("Config", f'<pre class="scroll" tabindex="0">{escape(run.config)}</pre>'))
    return "".join(parts)


def _section(title: str, body: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def _pairs(known: dict[str, str]) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(str(value))}</dd></div>" for name, value in known.items())
    return f'<dl class="pairs">{rows}</dl>'
