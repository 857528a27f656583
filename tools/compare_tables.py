"""A record of `bestiary compare` as rows, tables, CSV and Markdown."""

import collections
import csv
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.table import Table

SETTING = ("batch", "size", "mode", "layout", "dtype")


def rows_of(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a setting and contender: numbers, None where one was not measured."""
    rows = []
    for result in record["results"]:
        here = []
        for name, known in record["contenders"].items():
            rates = {which: result["batch"] / one["timings"][name]["median"] for which, one in result["passes"].items()}
            memory = result["memory"].get(name, {})
            accuracy = known["accuracy"] or {}
            here.append(
                {
                    "name": name,
                    "whose": known["whose"],
                    "parameters_m": known["parameters"] / 1e6,
                    "multiply_adds_g": known["multiply_adds"][str(result["size"])] / 1e9,
                    **{key: result[key] for key in SETTING},
                    "inference_pictures_s": rates.get("inference"),
                    "training_pictures_s": rates.get("training"),
                    "inference_mb": memory["inference"] / 1e6 if "inference" in memory else None,
                    "training_mb": memory["training"] / 1e6 if "training" in memory else None,
                    "accuracy": accuracy.get("value"),
                    "accuracy_of": accuracy.get("metric"),
                    "accuracy_by": accuracy.get("source"),
                    "accuracy_at": accuracy.get("size"),
                }
            )
        drawn = [row for row in here if placed(row, main_metric(record))]
        front = pareto([(row["inference_pictures_s"], row["accuracy"]) for row in drawn])
        best = {row["name"] for row, on_front in zip(drawn, front, strict=True) if on_front}
        rows += [row | {"pareto": row["name"] in best} for row in here]
    return rows


def main_metric(record: dict[str, Any]) -> str:
    """What most of the accuracies are: scores of different kinds are not set against each other."""
    metrics = [known["accuracy"]["metric"] for known in record["contenders"].values() if known["accuracy"]]
    told = collections.Counter(metric for metric in metrics if metric)
    return told.most_common(1)[0][0] if told else "accuracy"


def placed(row: dict[str, Any], metric: str) -> bool:
    """Whether a row has both speed and an accuracy of that kind; one given by hand is of any kind."""
    return (
        row["inference_pictures_s"] is not None and row["accuracy"] is not None and row["accuracy_of"] in (metric, "")
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of each (speed, accuracy), whether no other is at least as good in both and better in one."""
    return [
        not any(other[0] >= one[0] and other[1] >= one[1] and tuple(other) != tuple(one) for other in points)
        for one in points
    ]


def columns(rows: Iterable[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(heading, key, format) of the columns that have something to show."""
    rows = list(rows)
    every = [
        ("M params", "parameters_m", ".2f"),
        ("G MACs", "multiply_adds_g", ".2f"),
        ("inference, pict./s", "inference_pictures_s", ".1f"),
        ("training, pict./s", "training_pictures_s", ".1f"),
        ("MB inference", "inference_mb", ".0f"),
        ("MB training", "training_mb", ".0f"),
        ("accuracy, %", "accuracy", ".2f"),
    ]
    return [column for column in every if any(row[column[1]] is not None for row in rows)]


def grouped(record: dict[str, Any], rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(title, rows) of each setting."""
    told = record["arguments"]
    count = len(record["contenders"])
    threads = f"{told['threads']} thread{'s' * (told['threads'] > 1)}"
    where = f"{threads}; {record['machine'].get('gpu') or record['machine']['cpu']}"
    found = []
    for start in range(0, len(rows), count):
        one = rows[start]
        layout = ", channels last" if one["layout"] == "channels-last" else ""
        title = f"batch {one['batch']} at {one['size']} x {one['size']}, {one['mode']}, {one['dtype']}{layout}, {where}"
        found.append((title, rows[start : start + count]))
    return found


def cells(row: dict[str, Any], shown: list[tuple[str, str, str]]) -> list[str]:
    """The figures of a row as text; a dot where it is on the Pareto front."""
    figures = ["" if row[key] is None else format(row[key], form) for _, key, form in shown]
    return [row["name"], *figures, "●" if row["pareto"] else ""]


def tables(record: dict[str, Any], rows: list[dict[str, Any]]) -> list[Table]:
    """A table a setting."""
    made = []
    for title, group in grouped(record, rows):
        shown = columns(group)
        table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1))
        table.add_column("feature maps of" if record["features"] else "classifier", no_wrap=True)
        for heading, *_ in shown:
            table.add_column(heading, justify="right")
        table.add_column("", no_wrap=True)
        for row in group:
            table.add_row(*cells(row, shown))
        made.append(table)
    return made


def notes(record: dict[str, Any]) -> list[str]:
    """Where the accuracies come from, how busy the machine was, and the record's own note."""
    lines = []
    for name, known in record["contenders"].items():
        if accuracy := known["accuracy"]:
            size = f", pictures of {accuracy['size']}" if accuracy["size"] else ""
            lines.append(f"{name}: {accuracy['value']:.2f} {accuracy['metric'] or '%'} ({accuracy['source']}{size})")
    loads = [
        value for result in record["results"] for one in result["passes"].values() for value in one["load"].values()
    ]
    if loads and record["machine"].get("gpu") is None and max(loads) > record["arguments"]["threads"] + 0.5:
        lines.append(
            f"others were at work: load {min(loads):.1f} to {max(loads):.1f}, threads in use "
            f"{record['arguments']['threads']}; the ratios hold better than the figures"
        )
    if record["arguments"].get("note"):
        lines.append(record["arguments"]["note"])
    return lines


def write_csv(path: str, rows: list[dict[str, Any]]) -> None:
    """A line a row, all columns, every digit; a figure that was not measured is empty."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def markdown(record: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The tables and notes as a page's part."""
    parts = []
    for title, group in grouped(record, rows):
        shown = columns(group)
        heads = ["name", *(heading for heading, *_ in shown), "Pareto front"]
        lines = [heads, ["---", *["---:"] * len(shown), "---"], *(cells(row, shown) for row in group)]
        parts.append(f"{title}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    parts.append("\n".join(f"- {line}" for line in notes(record)))
    versions = record["versions"]
    parts.append(f"PyTorch {versions['torch']}, timm {versions['timm']}; commit {versions['commit']}.")
    return "\n\n".join(part for part in parts if part) + "\n"
