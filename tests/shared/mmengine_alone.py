"""What mmengine's Runner says to the bank's mistakes, without any check of ours: mmengine_alone.py DATA [I N]

DATA has the folders coco, seg and cls that the tools' tests make; of N parts of the bank the I-th is tried.
"""

import importlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from mistakes import Mistake, make

SECONDS = 40  # a training of the bank takes a few
NAMED, OTHER, SILENT, ENDLESS = "names the key or file", "another error", "trains in silence", "has no end"


def outcome(mistake: Mistake, root: Path) -> tuple[str, str]:
    """Train in a process of its own; how it ended, and the first line of the error."""
    cfg = make(mistake, root)
    report = root / "outcome.json"
    if (child := os.fork()) == 0:
        signal.alarm(SECONDS)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        text = None
        try:
            import torch
            from mmengine.runner import Runner

            torch.set_num_threads(1)  # others are not in this process
            Runner.from_cfg(cfg).train()
        except BaseException as error:  # whatever it is, it is what is asked for
            text = f"{type(error).__name__}: {error}"
        report.write_text(json.dumps(text))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return (ENDLESS, "") if os.WTERMSIG(status) == signal.SIGALRM else (OTHER, "the process died")
    text = json.loads(report.read_text())
    if text is None:
        return SILENT, ""
    return (NAMED if any(name in text for name in _names(mistake)) else OTHER), text


def _names(mistake: Mistake) -> set[str]:
    """The key's last part, a name that was given there, and the file's name: what an error would have to have."""
    names = {mistake.names.rsplit("/", 1)[-1].rsplit("dataset.", 1)[-1]}
    for key, value in mistake.options.items():
        names.add(getattr(value, "to", key.rsplit(".", 1)[-1]))
        if isinstance(value, dict):
            names.update(value)
        if isinstance(value, str) and "ROOT" not in value:
            names.add(value)
    files = (".json", ".png", ".pth")
    parts = {name if name.endswith(files) else re.split(r"[.:]", name)[-1] for name in names}
    return {part for part in parts if part}


def main() -> None:
    """Go through the bank and print a line each, and the counts."""
    from mistakes_bank import BANK

    import bestiary  # noqa: F401  (or mmdet and mmseg would not be imported at all)

    for package in ("mmdet", "mmseg"):  # once, not in every child
        importlib.import_module(f"{package}.models"), importlib.import_module(f"{package}.datasets")

    data, counts = Path(sys.argv[1]), Counter()
    part = slice(int(sys.argv[2]), None, int(sys.argv[3])) if len(sys.argv) > 3 else slice(None)
    for mistake in BANK[part]:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("coco", "seg", "cls"):
                shutil.copytree(data / name, Path(folder) / name)
            how, text = outcome(mistake, Path(folder))
        counts[how] += 1
        print(f"{mistake.name}: {how}: {' '.join(text.split())[:160]}", flush=True)
    print(dict(counts), flush=True)


if __name__ == "__main__":
    main()
