"""Train a classifier, a detector and a segmentor on the bundled digits; show scores and pictures."""

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from bestiary.engine.configs import find_config
from bestiary.engine.launch import run_guarded
from bestiary.engine.progress import clock
from bestiary.errors import InputError
from bestiary.tools.jobs import cores, environment
from bestiary.tools.parsers import command_parser

ROOT = Path("work_dirs/quickstart")
DATA = Path("data/digits")


class Task(NamedTuple):
    """One model of the quickstart."""

    name: str  # its folder under ROOT
    config: str  # as it ships
    pictures: str  # of DATA, to draw predictions on
    scores: dict[str, str]  # key of summary.json: key of metrics.json
    section: str  # of summary.json


CLASSIFIER = Task(
    "classifier",
    "quickstart/classifier_poolformer_digits",
    "imagenet/val",
    {"top1": "accuracy/top1"},
    "classification",
)
DETECTOR = Task(
    "detector",
    "quickstart/mask_rcnn_poolformer_digits",
    "coco/val2017",
    {"bbox_mAP": "coco/bbox_mAP", "segm_mAP": "coco/segm_mAP"},
    "detection",
)
SEGMENTOR = Task(
    "segmentor",
    "quickstart/upernet_poolformer_digits",
    "ade20k/images/validation",
    {"mIoU": "mIoU"},
    "segmentation",
)
TASKS = (CLASSIFIER, DETECTOR, SEGMENTOR)


def main(argv: list[str] | None = None) -> int:
    """Parse, train, draw, print; returns the exit status."""
    parser = command_parser("quickstart", __doc__)
    parser.add_argument("--fresh", action="store_true", help="do it all again, also what is done already")
    parser.add_argument("--debug", action="store_true", help="show tracebacks of bad input, too")
    args = parser.parse_args(argv)
    return run_guarded(lambda: quickstart(args.fresh), args.debug)


def quickstart(fresh: bool = False) -> None:
    """Data, three models, pictures, summary; what an earlier call has finished is not done again.

    Raises:
        InputError: a step failed; its own message stands above.
    """
    began = time.monotonic()
    ROOT.mkdir(parents=True, exist_ok=True)
    print(f"[1/5] data: the bundled handwritten digits, into {DATA}", flush=True)
    run([(None, ["data", "digits", str(DATA)])])
    seconds = {"data": round(time.monotonic() - began, 1)}
    print("[2/5] classifier: its backbone is what the other two start from", flush=True)
    # One core is left to the workers that read pictures: threads that wait for a busy core lose more than it gives.
    trained = train([CLASSIFIER], max(1, cores() - 1), fresh)
    print("[3/5] detector and segmentor, side by side", flush=True)
    trained += train([DETECTOR, SEGMENTOR], max(1, cores() // 2), fresh)
    print("[4/5] predictions drawn on validation pictures", flush=True)
    drawing = time.monotonic()
    draw(TASKS, fresh)
    print("[5/5] summary", flush=True)
    records = {task.name: json.loads(done_file(task).read_text(encoding="utf-8")) for task in TASKS}
    seconds |= {name: record["seconds"] for name, record in records.items()}
    seconds["pictures"] = round(time.monotonic() - drawing, 1)
    seconds["total"] = round(time.monotonic() - began, 1)
    path = ROOT / "summary.json"
    if not trained and path.is_file():  # what it took when it was done
        seconds = json.loads(path.read_text(encoding="utf-8"))["seconds"]
    summary = {task.section: records[task.name]["scores"] for task in TASKS} | {"seconds": seconds}
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    show(summary, path)


def train(tasks: Sequence[Task], threads: int, fresh: bool) -> int:
    """Train and evaluate what is not done yet, all of `tasks` at the same time; how many that were."""
    commands, wanted = [], []
    for task in tasks:
        folder, stamp = ROOT / task.name, request(task)
        if not fresh and done_file(task).is_file():
            if json.loads(done_file(task).read_text(encoding="utf-8"))["request"] == stamp:
                print(f"  {task.name}: trained already; `--fresh` trains it again", flush=True)
                continue
        command = ["train", task.config, "--work-dir", str(folder), "--threads", str(threads)]
        started = folder / "request.txt"
        if not fresh and started.is_file() and started.read_text(encoding="utf-8") == stamp:
            command.append("--resume")  # an earlier call was interrupted
        else:
            remove_run(folder)
        folder.mkdir(parents=True, exist_ok=True)
        started.write_text(stamp, encoding="utf-8")
        wanted.append((task, stamp))
        commands.append((task.name if len(tasks) > 1 else None, command))
    for (task, stamp), took in zip(wanted, run(commands), strict=True):
        metrics = json.loads((ROOT / task.name / "metrics.json").read_text(encoding="utf-8"))["metrics"]
        scores = {ours: metrics[theirs] for ours, theirs in task.scores.items()}
        record = {"request": stamp, "scores": scores, "seconds": round(took, 1)}
        done_file(task).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return len(wanted)


def draw(tasks: Sequence[Task], fresh: bool, count: int = 12) -> None:
    """Draw each model's predictions on some validation pictures, and a sheet of them."""
    commands = []
    for task in tasks:
        out = ROOT / "pictures" / task.name
        newest = last_checkpoint(task)
        if not fresh and (out / "sheet.png").is_file() and (out / "sheet.png").stat().st_mtime > newest.stat().st_mtime:
            continue
        pictures = sorted((DATA / task.pictures).rglob("*.jpg"))
        chosen = [str(picture) for picture in pictures[:: max(1, len(pictures) // count)][:count]]
        command = ["infer", task.config, str(newest), *chosen, "--out", str(out), "--sheet", str(count)]
        commands.append((task.name, command))
    run(commands)


def run(commands: Sequence[tuple[str | None, list[str]]]) -> list[float]:
    """Run `bestiary` commands at the same time, each line of a named one behind its name; their seconds.

    Raises:
        InputError: one of them failed. The others are stopped.
    """
    began, jobs, env = time.monotonic(), [], environment()
    seconds = [0.0] * len(commands)
    for name, command in commands:
        pipe = None if name is None else subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, "-m", "bestiary.tools.cli", *command], env=env, stdout=pipe, text=True, errors="replace"
        )
        jobs.append((name, command, process))
        if pipe is not None:
            threading.Thread(target=repeat, args=(name, process), daemon=True).start()
    waiting = dict(enumerate(jobs))
    try:
        while waiting:
            for index, (name, command, process) in list(waiting.items()):
                if process.poll() is None:
                    continue
                del waiting[index]
                seconds[index] = time.monotonic() - began
                if process.returncode != 0:
                    what = name or command[0]
                    raise InputError(
                        f"{what} ended with status {process.returncode}; its message is above, and this repeats it: "
                        f"bestiary {' '.join(command)}"
                    )
            time.sleep(0.1)
    finally:
        for _, _, process in waiting.values():
            process.terminate()
        for _, _, process in jobs:
            process.wait()
    return seconds


def repeat(name: str, process: subprocess.Popen) -> None:
    """Print what a process prints, each line behind its name."""
    for line in process.stdout:
        print(f"  {name:10s} {line.rstrip()}", flush=True)


def request(task: Task) -> str:
    """What decides a model's numbers: its config, and the data it is trained on."""
    from mmengine.config import Config

    text = Config.fromfile(find_config(task.config)).pretty_text + (DATA / "digits.json").read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def done_file(task: Task) -> Path:
    """Written when a model is trained and evaluated."""
    return ROOT / task.name / "done.json"


def last_checkpoint(task: Task) -> Path:
    """The weights at the end of training."""
    from bestiary.engine.results import checkpoints_of

    return checkpoints_of(ROOT / task.name)["last"]


def remove_run(folder: Path) -> None:
    """Take away what an earlier run of another config left, its checkpoints above all."""
    for path in (*folder.glob("*.pth"), *(folder / name for name in ("last_checkpoint", "done.json", "metrics.json"))):
        path.unlink(missing_ok=True)


def show(summary: dict, path: Path) -> None:
    """The table."""
    table = Table("model", "score", "value", "time")
    for task in TASKS:
        for score, value in summary[task.section].items():
            table.add_row(f"{task.name} ({task.section})", score, f"{value:.3f}", clock(summary["seconds"][task.name]))
    console = Console()
    console.print(table)
    console.print(f"{clock(summary['seconds']['total'])} in all; the same in {path}", highlight=False)
    for task in TASKS:
        console.print(f"pictures: {ROOT / 'pictures' / task.name / 'sheet.png'}", highlight=False, soft_wrap=True)
    for page in (ROOT / task.name / "report.html" for task in TASKS):
        if page.is_file():  # a run may leave it out
            console.print(f"report: {page}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
