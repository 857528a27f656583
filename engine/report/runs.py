"""Reads work directories: what was trained, how far it came, and its curves, those of resumed runs in one piece."""

import difflib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..progress import clock
from ..results import PERCENT
from .environment import lives
from .history import path_of, read_lines

NOT_LOSSES = {"lr", "base_lr", "time", "data_time", "memory", "iter", "epoch", "step", "eta"}


@dataclass
class Run:
    """A work directory.

    `rows`: what was logged while it trained, `step` is the iteration; `evaluations`: iter, epoch, scores; `starts`:
    each time that it was started or resumed; `state`: 'finished', 'running', 'stopped', 'unknown', in full in `words`.
    """

    folder: Path
    name: str
    rows: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    state: str
    words: str
    config: str = ""
    end: dict[str, Any] = field(default_factory=dict)

    @property
    def start(self) -> dict[str, Any]:
        """The latest start; empty where it was not noted."""
        return self.starts[-1] if self.starts else {}

    @property
    def iteration(self) -> int:
        """How far it came, by all that was written."""
        steps = [int(row["step"]) for row in self.rows] + [int(entry["iter"]) for entry in self.evaluations]
        return max([*steps, int(self.end.get("iter", 0))], default=int(self.start.get("iter", 0)))

    @property
    def scores(self) -> dict[str, float | None]:
        """Of the last evaluation."""
        return self.evaluations[-1]["scores"] if self.evaluations else {}

    def curve(self, key: str) -> tuple[list[float], list[float]]:
        """Iterations and values of what was logged under `key`."""
        pairs = [(row["step"], row[key]) for row in self.rows if isinstance(row.get(key), int | float)]
        return [float(x) for x, _ in pairs], [float(y) for _, y in pairs]

    def score_curve(self, name: str) -> tuple[list[float], list[float]]:
        """Iterations and values of a score."""
        pairs = [(entry["iter"], entry["scores"].get(name)) for entry in self.evaluations]
        return [float(x) for x, y in pairs if y is not None], [float(y) for _, y in pairs if y is not None]

    def losses(self) -> list[str]:
        """Names of what was logged and is a loss, the sum first."""
        names = list(dict.fromkeys(key for row in self.rows for key in row if key not in NOT_LOSSES))
        found = [name for name in names if "loss" in name.rsplit(".", 1)[-1]]
        return sorted(found, key=lambda name: name != "loss")

    def best(self, name: str) -> dict[str, Any] | None:
        """The evaluation with the highest value of a score."""
        there = [entry for entry in self.evaluations if entry["scores"].get(name) is not None]
        return max(there, key=lambda entry: entry["scores"][name], default=None)


def find_runs(work_dir: str | Path) -> list[Run]:
    """All runs in a folder and below it, in the order of their names.

    Raises:
        InputError: there is no such folder, or no run in it.
    """
    root = Path(work_dir)
    if root.is_file():
        raise InputError(f"{root}: a file; give the work directory that it lies in")
    if not root.is_dir():
        near = [path.name for path in root.parent.iterdir() if path.is_dir()] if root.parent.is_dir() else []
        raise InputError(
            f"{root}: no such folder{_near(root.name, near)}; a work directory is where `bestiary train` wrote"
        )
    folders = {path.parent.parent for path in root.rglob("vis_data") if path.is_dir()}
    folders |= {path.parent.parent for path in root.rglob("report/history.jsonl")}
    if not folders:
        raise InputError(
            f"{root}: no run in it: neither a log (TIME/vis_data) nor a history (report/history.jsonl); "
            "give the --work-dir of a `bestiary train`, or a folder of such"
        )
    return [read_run(folder, root) for folder in sorted(folders)]


def _near(name: str, names: list[str]) -> str:
    found = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def read_run(folder: Path, root: Path | None = None) -> Run:
    """A work directory; its name is that of the folder below `root`, or the folder's own."""
    history = read_lines(path_of(folder))
    starts = [entry for entry in history if entry["what"] == "start"]
    logs = sorted(path for path in folder.glob("*/vis_data") if path.is_dir())
    known = {entry["timestamp"]: entry for entry in starts}
    pieces = []
    for log in logs:
        lines = read_lines(log / "scalars.json")
        train = [row for row in lines if "step" in row and ("lr" in row or "loss" in row)]
        first = known.get(log.parent.name, {}).get("iter", train[0]["step"] - 1 if train else None)
        pieces.append((first, train, _logged_evaluations(lines)))
    rows = _joined([(first, train) for first, train, _ in pieces], "step")
    noted = [entry for entry in history if entry["what"] == "evaluation"]
    evaluations = _noted_in_order(history) if noted else _joined([(f, found) for f, _, found in pieces], "iter")
    ends = [entry for entry in history if entry["what"] == "end"]
    end = ends[-1] if ends and starts and ends[-1]["time"] >= starts[-1]["time"] else {}
    name = folder.name if root in (None, folder) else folder.relative_to(root).as_posix()
    run = Run(
        folder, name or folder.resolve().name, rows, evaluations, starts, "unknown", "", _config(folder, logs), end
    )
    run.state, run.words = _state(run, logs)
    return run


def _joined(pieces: list[tuple[int | None, list[dict]]], key: str) -> list[dict[str, Any]]:
    """Rows of several starts as one: where a later one began earlier than another had come, its rows count."""
    joined: list[dict[str, Any]] = []
    for first, rows in pieces:
        if first is not None:
            joined = [row for row in joined if row[key] <= first]
        joined += rows
    return joined


def _noted_in_order(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    pieces: list[tuple[int | None, list[dict]]] = [(None, [])]
    for entry in history:
        if entry["what"] == "start":
            pieces.append((int(entry["iter"]), []))
        elif entry["what"] == "evaluation":
            pieces[-1][1].append(entry)
    return _joined(pieces, "iter")


def _logged_evaluations(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of runs whose history nobody wrote: rows of scores, each after the iteration that was logged last."""
    found, iteration = [], 0
    for row in lines:
        if "lr" in row or "loss" in row:
            iteration = int(row.get("step", iteration))
            continue
        scores = {key: value for key, value in row.items() if key not in NOT_LOSSES and isinstance(value, int | float)}
        if scores:
            found.append({"iter": iteration, "epoch": row.get("step"), "scores": scores})
    for name in {name for entry in found for name in entry["scores"]}:
        values = [entry["scores"].get(name) for entry in found]
        # mmseg's own metric counts these in percent.
        percent = name.rsplit("/", 1)[-1] in PERCENT and max(value for value in values if value is not None) > 1
        for entry, value in zip(found, values, strict=True):
            if value is not None:
                entry["scores"][name] = None if value == -1 else value / 100 if percent else value
    return found


def _config(folder: Path, logs: list[Path]) -> str:
    """The config as it was run: mmengine's copy in the log's folder."""
    copies = [log / "config.py" for log in reversed(logs) if (log / "config.py").is_file()]
    copies += sorted(folder.glob("*.py"), key=lambda path: -path.stat().st_mtime)
    return copies[0].read_text(encoding="utf-8", errors="replace") if copies else ""


def _state(run: Run, logs: list[Path]) -> tuple[str, str]:
    """What became of it."""
    total = run.start.get("max_iters")
    where = f"iteration {run.iteration:,}" + (f" of {total:,}" if total else "")
    if run.end:
        early = ": a hook ended the training early" if run.end["iter"] < (total or 0) else ""
        return "finished", f"finished after {where}{early}"
    files = [path for log in logs for path in (*log.glob("*.json"), *log.parent.glob("*.log"))]
    touched = max((path.stat().st_mtime for path in (*files, path_of(run.folder)) if path.exists()), default=None)
    quiet = "" if touched is None else f"; last written to {clock(max(0.0, time.time() - touched))} ago"
    alive = lives(run.start.get("process")) if run.starts else None
    if alive:
        return "running", f"still running: {where}{quiet}"
    if alive is False:
        return "stopped", f"stopped before its end, at {where}: its process is gone{quiet}"
    if run.starts:
        return "unknown", f"not finished, {where}; it ran on another machine or before a restart of this one{quiet}"
    return "unknown", f"{where} was the last logged; whether it finished was not noted{quiet}"
