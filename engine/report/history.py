"""`report/history.jsonl` of a work directory: a line when a run starts, evaluates and ends."""

import json
from pathlib import Path
from typing import Any

from .evidence import FOLDER


def path_of(work_dir: str | Path) -> Path:
    """The file."""
    return Path(work_dir) / FOLDER / "history.jsonl"


def note(work_dir: str | Path, what: str, **facts: Any) -> None:
    """Add a line; `what`: 'start', 'evaluation' or 'end'."""
    path = path_of(work_dir)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"what": what, **facts}) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects, one a line; lines that a kill cut short are left out, a file that is not there has none."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found
