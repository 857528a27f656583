"""Rename weights between our keys, timm's and the authors': bestiary convert SRC DST --arch NAME"""

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from bestiary.backbones.names import resolve_name
from bestiary.backbones.pretrained import LoadReport, unwrapped
from bestiary.backbones.reading import is_address, read_checkpoint
from bestiary.checkpoints.guess import hint
from bestiary.checkpoints.network import Network
from bestiary.checkpoints.writing import SUFFIXES, need_suffix, write_weights
from bestiary.engine.launch import run_guarded
from bestiary.errors import InputError
from bestiary.heads import make_classifier
from bestiary.tools.parsers import command_parser

SHOWN = 40  # names in a message that lists what does not fit


def main(argv: list[str] | None = None) -> int:
    """Parse, convert, print; returns the exit status."""
    parser = command_parser(
        "convert",
        f"{__doc__} [--to timm]",
        "SRC's names are recognised by themselves. A file of a backbone without a head will do, too.",
    )
    parser.add_argument("source", metavar="SRC", help="weights: a path, https://..., timm://NAME, hf-hub:OWNER/NAME")
    parser.add_argument("destination", metavar="DST", help=f"file to write; its suffix says how: {', '.join(SUFFIXES)}")
    parser.add_argument("--arch", required=True, metavar="NAME", help="the backbone, as `bestiary list` prints it")
    parser.add_argument(
        "--to", default="bestiary", metavar="LAYOUT", help="whose names to write: bestiary (default), timm or official"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of bad input, too")
    args = parser.parse_args(argv)
    return run_guarded(lambda: convert(args.source, args.destination, args.arch, args.to), args.debug)


def convert(source: str, destination: str, arch: str, to: str = "bestiary") -> None:
    """Read `source`, say which layout it has, write it to `destination` under the names of `to`.

    Raises:
        InputError: no such arch or layout; not weights of that arch; keys are missing or mis-shaped; the file cannot be
            read or written.
    """
    need_suffix(destination)
    if not is_address(source) and Path(source).expanduser().resolve() == Path(destination).resolve():
        raise InputError(f"{destination}: source and destination are one file; name another to write")
    name = arch.partition(".")[0]  # a tag may follow, as in timm's names
    try:
        network = Network(*resolve_name(name), {})
    except ValueError as error:
        raise InputError(f"--arch {arch}: {error}") from error
    layouts = ("bestiary", *network.key_maps)
    if to not in layouts:
        raise InputError(f"--to {to}: {name} has no such layout; there are {', '.join(layouts)}")
    weights = unwrapped(read_checkpoint(source)["state_dict"])
    try:
        layout, ours, report = read_layout(network, name, weights)
    except InputError as error:
        raise InputError(f"{source}: {error}{hint(weights)}") from error
    if report:
        raise InputError(f"{source}: {layout} names, but it does not fit {name}: {listing(report)}")
    theirs = ours if to == "bestiary" else network.from_ours(ours, to)
    write_weights(destination, theirs, entry="model" if to == "official" else "state_dict")
    head = "with a head" if any(key.startswith("head.") for key in ours) else "no head"
    print(f"{source}: {layout} names of {name}, {count(weights)}, {head}")
    if to != "bestiary" and (left_out := [key for key in ours if not network.key_maps[to].theirs(key)]):
        print(f"left out, {to} has no place for them: {', '.join(left_out)}")
    print(f"{destination}: {to} names, {count(theirs)}")


def read_layout(
    network: Network, name: str, weights: Mapping[str, Tensor]
) -> tuple[str, dict[str, Tensor], LoadReport]:
    """The layout of a state dict, the same weights under our keys, and how they fit the network.

    Raises:
        InputError: they are of no known layout.
    """
    readings = network.readings(weights).items()
    found = [(layout, ours, compare(network, name, layout, weights, ours)) for layout, ours in readings]
    return min(found, key=lambda one: len(one[2]))


def compare(
    network: Network, name: str, layout: str, weights: Mapping[str, Tensor], ours: Mapping[str, Tensor]
) -> LoadReport:
    """What is missing, under the names of the layout, or mis-shaped, under ours.

    The head may be absent, or have any number of classes, and output norms may be absent.
    """
    with torch.device("meta"):
        needed = make_classifier(name).state_dict()
    shapes = {**needed, **{f"backbone.{key}": value for key, value in network.backbone.state_dict().items()}}
    with_head = any(key.startswith("head.") for key in ours)
    report = LoadReport()
    for key, value in shapes.items():
        if key in ours:
            start = 1 if key.startswith("head.fc.") else 0  # the first number of the last layer counts classes
            if ours[key].ndim != value.ndim or ours[key].shape[start:] != value.shape[start:]:
                report.misshaped[key] = tuple(ours[key].shape), tuple(value.shape)
        elif key in needed and not key.endswith("num_batches_tracked") and (with_head or key.startswith("backbone.")):
            names = (key,) if layout == "bestiary" else network.key_maps[layout].theirs(key)
            report.missing += [each for each in names if each not in weights]
    return report


def listing(report: LoadReport) -> str:
    """Every name that does not fit, as far as a screen takes them."""
    shapes = [f"{key} {list(got)}, not {list(want)}" for key, (got, want) in report.misshaped.items()]
    parts = []
    for kind, names in (("mis-shaped", shapes), ("missing", report.missing)):
        if names:
            more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            parts.append(f"{len(names)} {kind}: {', '.join(names[:SHOWN])}{more}")
    return "; ".join(parts)


def count(weights: Mapping[str, Tensor]) -> str:
    """`471 tensors, 6.35 M numbers`."""
    return f"{len(weights)} tensors, {sum(value.numel() for value in weights.values()) / 1e6:.2f} M numbers"


if __name__ == "__main__":
    sys.exit(main())
