"""Data sets: make the bundled digits, check those of a config, verify or unpack a download, prepare other forms.

bestiary data digits data/digits; bestiary data check CONFIG; bestiary data verify coco data/coco; bestiary data prepare
yolo SRC DST; bestiary data unpack ARCHIVE FOLDER.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bestiary.engine.launch import run_guarded
from bestiary.engine.steps import Steps, tracked
from bestiary.errors import InputError
from bestiary.inputs import digits as bundled
from bestiary.inputs.checks import check_inputs
from bestiary.inputs.digits import RECORD, make_digits
from bestiary.inputs.prepare.ade20k_full import prepare_ade20k
from bestiary.inputs.prepare.coco_file import write_splits
from bestiary.inputs.prepare.csv_boxes import from_csv
from bestiary.inputs.prepare.isic import YEARS, prepare_isic
from bestiary.inputs.prepare.labelme import from_labelme
from bestiary.inputs.prepare.shards import write_shards
from bestiary.inputs.prepare.synapse import prepare_synapse
from bestiary.inputs.prepare.voc import from_voc
from bestiary.inputs.prepare.yolo import from_yolo
from bestiary.inputs.released import LAYOUTS, examine_all
from bestiary.inputs.released.checksums import compare_checksums, damaged_archives, write_checksums
from bestiary.inputs.unpack import unpack
from bestiary.inputs.watched import watching
from bestiary.tools.options import ConfigOptions, add_safe_option, need, read_config
from bestiary.tools.parsers import command_parser, explained

TO_COCO = dict(voc=from_voc, yolo=from_yolo, labelme=from_labelme, csv=from_csv)
KINDS = (*TO_COCO, "ade20k", *YEARS, "synapse", "shards")
WHAT = (
    "voc, yolo, labelme and csv become COCO's JSON; ade20k, the full one, its 150 classes; isic2017, isic2018 and "
    "synapse label images; shards packs class folders"
)


def main(argv: list[str] | None = None) -> int:
    """Parse, make or check, print; returns the exit status."""
    parser = command_parser("data", __doc__.split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="digits|check|verify|prepare|unpack")
    digits = commands.add_parser("digits", help="write handwritten digits on photographs as COCO, ADE20K and ImageNet")
    digits.add_argument("root", help="folder to make, as data/digits")
    digits.add_argument("--seed", type=int, default=0, help="of places, sizes and colours (0)")
    digits.add_argument("--train", type=int, default=1000, help="training scenes (1000)")
    digits.add_argument("--val", type=int, default=200, help="validation scenes (200)")
    digits.add_argument("--size", type=int, default=128, help="of a scene, in pixels (128)")
    digits.add_argument("--crop-size", type=int, default=48, help="of a single digit's picture, in pixels (48)")
    digits.add_argument("--copies", type=int, default=4, help="pictures of each training digit in class folders (4)")
    digits.add_argument(
        "--layouts", nargs="+", choices=bundled.LAYOUTS, default=list(bundled.LAYOUTS), help="which to write (all)"
    )
    digits.add_argument("--overwrite", action="store_true", help="replace digits that are there already")
    check = commands.add_parser("check", help="look for mistakes in the data that a config names")
    check.add_argument("config", help="config file, or the name of one that ships")
    check.add_argument("--cfg-options", nargs="+", action=ConfigOptions, metavar="KEY=VALUE", help="change entries")
    add_safe_option(check)
    verify = commands.add_parser("verify", help="say what is missing of a downloaded data set, and where")
    verify.add_argument("name", choices=list(LAYOUTS), help="which")
    verify.add_argument("root", help="its folder, as data/coco")
    verify.add_argument("--archives", action="store_true", help="compare MD5 of archives in the folder and above it")
    verify.add_argument("--write-checksums", metavar="FILE", help="note SHA-256 of a sample of the files")
    verify.add_argument("--checksums", metavar="FILE", help="compare with what --write-checksums noted of another copy")
    verify.add_argument("--sample", type=int, default=1000, help="files for --write-checksums (1000)")
    prepare = commands.add_parser("prepare", help="make a data set into what the configs read")
    prepare.add_argument("name", choices=list(KINDS), help="form that it has; " + WHAT)
    prepare.add_argument("source", help="its folder; the table itself for csv")
    prepare.add_argument("target", help="folder to write")
    prepare.add_argument("--classes", nargs="+", metavar="NAME", help="names in the order of their numbers")
    prepare.add_argument(
        "--val", type=float, metavar="SHARE", help="hold out, where the source has no split (0.2; ISIC 0.3)"
    )
    prepare.add_argument("--seed", type=int, default=0, help="of the choice (0)")
    archive = commands.add_parser("unpack", help="unpack a zip or tar archive, inside of its folder or not at all")
    archive.add_argument("archive", help="zip or tar file; tar may be packed by gz, bz2 or xz")
    archive.add_argument("folder", help="where to; made if it is not there")
    for name, command in commands.choices.items():
        explained(command, f"data {name}")
        command.add_argument("--debug", action="store_true", help="show tracebacks of bad input, too")
    args = parser.parse_args(argv)
    command = dict(digits=make, check=look, verify=verify_download, prepare=prepare_data, unpack=unpack_archive)[
        args.command
    ]
    with watching(lambda items, what: tracked(items, args.command, what)):
        return run_guarded(lambda: command(args), args.debug)


def make(args: argparse.Namespace) -> None:
    """Write the digits and say where.

    Raises:
        InputError: an argument or the folder does not fit; see `make_digits`.
    """
    names = ("seed", "train", "val", "size", "crop_size", "copies", "overwrite")
    request = {name: getattr(args, name) for name in names} | dict(layouts=tuple(args.layouts))
    began = time.monotonic()
    with Steps("digits", 0, "pictures") as steps:

        def advance(done: int, total: int) -> None:
            steps.total = total
            steps.done(done - steps.count)

        record = make_digits(args.root, **request, progress=advance)
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


def verify_download(args: argparse.Namespace) -> None:
    """Look at the parts of a released data set and print a table.

    Raises:
        InputError: something is missing, damaged or not of the release; every problem is a line.
    """
    if not Path(args.root).is_dir():
        raise InputError(f"{args.root}: no such folder; give the folder of {args.name}")
    table = Table(title=f"{args.name} in {args.root}", title_justify="left")
    for heading in ("part", "release", "found", ""):
        table.add_column(heading, overflow="fold")
    problems: list[str] = []
    parts = LAYOUTS[args.name]()
    for finding in tracked(examine_all(args.root, parts), "verify", "parts", len(parts)):
        table.add_row(
            finding.path, finding.expected, finding.found, "[red]no[/]" if finding.problems else "[green]ok[/]"
        )
        problems += finding.problems
    Console().print(table)
    if args.archives:
        problems += damaged_archives(args.root)
    if args.checksums:
        problems += compare_checksums(args.root, args.checksums)
    if problems:
        raise InputError(f"{len(problems)} problem{'s' * (len(problems) > 1)}:\n" + "\n".join(problems))
    if args.write_checksums:
        count = write_checksums(args.root, args.write_checksums, args.sample)
        print(f"{args.write_checksums}: SHA-256 of {count:,} files")
    print(f"{args.root}: nothing is missing")


def prepare_data(args: argparse.Namespace) -> None:
    """Write a data set in another form and say where.

    Raises:
        InputError: the source is missing or not of that form; an option that the form does not know.
    """
    if not os.path.exists(args.source):
        raise InputError(f"{args.source}: no such file or folder")
    coco = args.name in TO_COCO
    if args.classes and not coco:
        raise InputError(f"--classes: {args.name} has its own; leave it out")
    if args.val is not None and not (coco or args.name in YEARS):
        raise InputError(f"--val: {args.name} has its own split; leave it out")
    if args.val is not None and not 0 <= args.val < 1:
        raise InputError(f"--val {args.val:g}: give a part of the pictures, from 0 to less than 1")
    if coco:
        share = 0.2 if args.val is None else args.val
        lines = write_splits(TO_COCO[args.name](args.source, args.classes, share, args.seed), args.target)
        folder = Path(args.source).parent if args.name == "csv" else args.source
        lines.append(f"pictures stay where they are: data_prefix=dict(img={str(folder)!r}) goes with these files")
    elif args.name in YEARS:
        lines = prepare_isic(args.name, args.source, args.target, 0.3 if args.val is None else args.val, args.seed)
    elif args.name == "shards":
        source = Path(args.source)
        splits = [name for name in ("train", "val") if (source / name).is_dir()]
        pairs = [(source / name, name) for name in splits] or [(source, source.name)]
        lines = [line for folder, name in pairs for line in write_shards(folder, args.target, name, seed=args.seed)]
    else:
        lines = dict(ade20k=prepare_ade20k, synapse=prepare_synapse)[args.name](args.source, args.target)
    print("\n".join(lines))


def unpack_archive(args: argparse.Namespace) -> None:
    """Unpack and say how much.

    Raises:
        InputError: see `unpack`.
    """
    files, size = unpack(args.archive, args.folder)
    print(f"{args.folder}: {files:,} files, {size / 2**20:,.1f} MiB, of {args.archive}")


if __name__ == "__main__":
    sys.exit(main())
