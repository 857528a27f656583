"""Model cards: write their generated parts, check them, or make one of a model that you have trained."""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bestiary.engine.launch import run_guarded
from bestiary.engine.steps import Steps
from bestiary.errors import InputError
from bestiary.tools.parsers import command_parser

if TYPE_CHECKING:  # imported when it is needed: --help is to be quick
    from bestiary.engine.cards import Card


def arguments() -> argparse.ArgumentParser:
    parser = command_parser("card", __doc__)
    add = parser.add_argument
    add("families", nargs="*", metavar="FAMILY", help="as `bestiary card` lists them; left out: all")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="write cards, pictures and metafiles")
    what.add_argument("--check", action="store_true", help="compare them with what is there; write nothing")
    what.add_argument("--export", metavar="WORK_DIR", help="make a card of a trained model")
    add("--measure", action="store_true", help="with --write: count all figures again first")
    add("--quick", action="store_true", help="with --check: leave out the figures, count nothing")
    add("--out", metavar="FILE", help="with --export: where the card goes (WORK_DIR/README.md)")
    add("--debug", action="store_true", help="show the traceback of an error")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Parse, write, check or export; returns the exit status."""
    args = arguments().parse_args(argv)
    return run_guarded(lambda: act(args), args.debug)


def act(args: argparse.Namespace) -> None:
    """Do what the arguments say.

    Raises:
        InputError: no such family; a check that failed, with a line a mistake.
    """
    from bestiary.engine.cards import families, read_card

    if args.export:
        from bestiary.engine.cards.export import export

        print(f"wrote {export(Path(args.export), Path(args.out) if args.out else None)}")
        return
    names = args.families or families()
    cards = [read_card(name) for name in names]
    if args.write:
        write(cards, args.measure)
    elif args.check:
        check(cards, args.quick)
    else:
        for card in cards:
            print(f"{card.family:12s} {card.name}: {len(card.variants)} backbones, {len(card.configs)} configs")


def write(cards: list["Card"], measure: bool) -> None:
    """Renew the files of each card; figures first if asked."""
    from bestiary.engine.cards import read_card
    from bestiary.engine.cards.files import write_files
    from bestiary.engine.cards.measure import count_backbone, count_config, write_measurements

    with Steps("count", sum(map(figures, cards)) if measure else 0, "models") as steps:
        for card in cards:
            if measure:
                backbones = {v.name: step(steps, v.name, lambda v=v: count_backbone(v)) for v in card.variants}
                configs = {name: step(steps, name, lambda name=name: count_config(name)) for name in card.configs}
                write_measurements(backbones, configs)
                read_card.cache_clear()
            for path in write_files(read_card(card.family)):
                steps.say(f"wrote {path}")


def check(cards: list["Card"], quick: bool) -> None:
    """Print what was looked at.

    Raises:
        InputError: the mistakes, a line each.
    """
    from bestiary.engine.cards.check import check_card, check_coverage, check_figures

    mistakes = check_coverage()
    with Steps("count", 0 if quick else sum(map(figures, cards)), "models") as steps:
        for card in cards:
            found = check_card(card)
            if not quick:
                found += check_figures(card, functools.partial(step, steps))
            steps.say(f"{card.family:12s} {'fits' if not found else f'{len(found)} mistakes'}")
            mistakes += found
    print("Links to other sites were looked at for their form alone: nothing is fetched.")
    if mistakes:
        raise InputError("\n".join(mistakes))


def figures(card: "Card") -> int:
    """How many models of a card are counted."""
    return len(card.variants) + len(card.configs)


def step(steps: Steps, name: str, count: Callable[[], dict]) -> dict:
    """Count one model, with progress."""
    steps.begin(name)
    found = count()
    steps.done()
    return found


if __name__ == "__main__":
    sys.exit(main())
