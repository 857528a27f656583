"""The page: one HTML file that needs nothing beside it."""

import time
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from ..saving import write
from . import sections, words
from .evidence import read_evidence
from .extremes import KEPT
from .runs import Run, find_runs

STYLE = Path(__file__).with_name("page.css")
STATES = {"finished": "finished", "running": "still running", "stopped": "stopped", "unknown": "end not noted"}
MOST_PICTURES = 24  # of all runs of a page together, of each end


def write_report(
    work_dir: str | Path,
    out: str | Path,
    runs: Sequence[Run] | None = None,
    done: Callable[[], object] | None = None,
) -> Path:
    """Make the page of a work directory, or of all those below it, and write it to `out`, the whole file or none.

    Args:
        runs: what `find_runs` found there; read here if None.
        done: called as each run is done.

    Raises:
        InputError: there is no run; what was kept of one is damaged.
        OSError: `out` cannot be written.
    """
    runs = find_runs(work_dir) if runs is None else runs
    parts = []
    for run in runs:
        parts.append(_run(run, len(runs)))
        if done is not None:
            done()
    body = parts[0] if len(runs) == 1 else _overview(Path(work_dir), runs) + "".join(parts)
    title = runs[0].name if len(runs) == 1 else Path(work_dir).resolve().name
    write(Path(out), _document(f"{title}: training report", body).encode())
    return Path(out)


def _document(title: str, body: str) -> str:
    made = f"Made by bestiary, {words.date(time.time())}. Nothing on this page is loaded from elsewhere."
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>\n"
        f"<body><main>{body}</main><footer>{escape(made)}</footer></body></html>\n"
    )


def _run(run: Run, among: int) -> str:
    """All of one run; folded, and with fewer pictures, where it is one of several."""
    evidence = read_evidence(run.folder)
    pictures = KEPT if among == 1 else max(1, min(KEPT, MOST_PICTURES // among))
    parts = [
        ("Curves", sections.curves([run])),
        ("Scores", sections.scores(run)),
        ("Classes", sections.classes(run, evidence)),
        ("Predictions", sections.pictures(evidence, pictures)),
        ("Run", sections.facts(run)),
    ]
    level = "h2" if among == 1 else "h3"
    body = "".join(f"<section><{level}>{title}</{level}>{content}</section>" for title, content in parts if content)
    head = f'<p class="state {run.state}"><b>{STATES[run.state]}</b> {escape(run.words)}</p>'
    model = escape(words.model_of(run.config))
    began = f"<span>started {words.date(run.starts[0]['time'])}</span>" if run.starts else ""
    below = ", ".join(part for part in (model, began) if part)
    top = f"<header><h1>{escape(run.name)}</h1><p class='model'>{below}</p>{head}</header>"
    if among == 1:
        return f"{top}{sections.tiles(run)}{body}"
    name = f'<summary><h2>{escape(run.name)}</h2><span class="model">{below}</span></summary>'
    return f'<details class="run" id="{escape(run.name)}">{name}{head}{sections.tiles(run)}{body}</details>'


def _overview(root: Path, runs: Sequence[Run]) -> str:
    """What several runs have in common, and their curves on one axis."""
    names = list(dict.fromkeys(name for run in runs for name in words.leading(run.scores, 3)))[:5]
    rows = []
    for run in runs:
        _, losses = run.curve("loss")
        seconds = sections.duration(run)
        rows.append(
            [run.name, STATES[run.state], f"{run.iteration:,}", *(words.score(run.scores.get(name)) for name in names)]
            + [f"{losses[-1]:.4g}" if losses else "–", sections.clock(seconds) if seconds else "–"]
        )
    head = ["run", "state", "iterations", *map(words.meaning, names), "loss", "time"]
    return (
        f"<header><h1>{escape(root.resolve().name)}</h1><p class='model'>{len(runs)} runs</p></header>"
        f"<section><h2>Runs</h2>{sections.table(head, rows, 'runs')}</section>"
        f"<section><h2>Curves</h2>{sections.curves(runs)}</section>"
    )
