"""`bestiary data digits data/digits` makes the bundled data, `bestiary data check CONFIG` checks those of a config."""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bestiary.engine.launch import run_guarded
from bestiary.inputs.checks import check_inputs
from bestiary.inputs.digits import LAYOUTS, RECORD, make_digits
from bestiary.tools.options import ConfigOptions, need, read_config


def main(argv: list[str] | None = None) -> int:
    """Parse, make or check, print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bestiary data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="digits|check")
    digits = commands.add_parser("digits", help="write handwritten digits on photographs as COCO, ADE20K and ImageNet")
    digits.add_argument("root", help="folder to make, as data/digits")
    digits.add_argument("--seed", type=int, default=0, help="of places, sizes and colours (0)")
    digits.add_argument("--train", type=int, default=1000, help="training scenes (1000)")
    digits.add_argument("--val", type=int, default=200, help="validation scenes (200)")
    digits.add_argument("--size", type=int, default=128, help="of a scene, in pixels (128)")
    digits.add_argument("--crop-size", type=int, default=48, help="of a single digit's picture, in pixels (48)")
    digits.add_argument("--copies", type=int, default=4, help="pictures of each training digit in class folders (4)")
    digits.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), help="which to write (all)")
    digits.add_argument("--overwrite", action="store_true", help="replace digits that are there already")
    check = commands.add_parser("check", help="look for mistakes in the data that a config names")
    check.add_argument("config", help="config file, or the name of one that ships")
    check.add_argument("--cfg-options", nargs="+", action=ConfigOptions, metavar="KEY=VALUE", help="change entries")
    for command in (digits, check):
        command.add_argument("--debug", action="store_true", help="show tracebacks of bad input, too")
    args = parser.parse_args(argv)
    return run_guarded(lambda: dict(digits=make, check=look)[args.command](args), args.debug)


def make(args: argparse.Namespace) -> None:
    """Write the digits and say where.

    Raises:
        InputError: an argument or the folder does not fit; see `make_digits`.
    """
    names = ("seed", "train", "val", "size", "crop_size", "copies", "overwrite")
    request = {name: getattr(args, name) for name in names} | dict(layouts=tuple(args.layouts))
    began = time.monotonic()
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("pictures", total=None)
        record = make_digits(
            args.root, **request, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    scenes, crops = record["scenes"], record["crops"]
    parts = []
    if scenes:
        layouts = " and ".join(name for name in record["request"]["layouts"] if name != "imagenet")
        parts.append(f"{scenes['train']} + {scenes['val']} scenes ({layouts})")
    if crops:
        parts.append(f"{crops['train']} + {crops['val']} single digits (imagenet)")
    what = f"{', '.join(parts)}; training + validation"
    if record["written"]:
        print(f"{args.root}: wrote {what}; {time.monotonic() - began:.0f} s")
    else:
        print(f"{args.root}: is there already, nothing done: {what}; see {Path(args.root) / RECORD}")


def look(args: argparse.Namespace) -> None:
    """Check the data of a config and print the objects, pixels or pictures of each class.

    Raises:
        InputError: something does not fit; see `check_inputs`.
    """
    args.launcher, args.local_rank, args.work_dir = "none", 0, None
    cfg = read_config(args)
    splits = [split for split in ("train", "val", "test") if cfg.get(f"{split}_dataloader") is not None]
    if not splits:
        need(cfg, args.config, "train_dataloader")
    report = check_inputs(cfg, splits)
    for split, table in report.items():
        print(f"{split}: {table['pictures']} pictures in {table['where']}")
        for note in table["notes"]:
            print(f"  {note}")
        width = max((len(name) for name in table["classes"]), default=0)
        for name, count in table["classes"].items():
            print(f"  {name:{width}s} {count:8d} {table['unit']}")
    for split in splits:
        if split not in report:
            print(f"{split}: of a kind that is not looked into")


if __name__ == "__main__":
    sys.exit(main())
