"""Parameters and multiply-adds of a config's model: bestiary flops CONFIG --shape 800 1280"""

import sys

from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from bestiary.engine.complexity import build_meta, count_multiply_adds, count_parameters
from bestiary.engine.configs import load_config
from bestiary.engine.launch import run_guarded
from bestiary.errors import InputError
from bestiary.tools.options import add_safe_option, need
from bestiary.tools.parsers import command_parser

CUSTOMARY = {"mmdet": (800, 1280), "mmseg": (512, 2048)}  # height and width at which papers of the field count


def main(argv: list[str] | None = None) -> int:
    """Parse, count, print; returns the exit status."""
    parser = command_parser("flops", __doc__)
    parser.add_argument("config", help="path of a config, or the name of one that ships")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the picture; by default 800 1280 for a detector, 512 2048 for a segmentor, the pipeline's size for a "
        "classifier",
    )
    add_safe_option(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    return run_guarded(lambda: count(args.config, args.shape, args.safe_config), args.debug)


def count(config: str, shape: list[int] | None, safe: bool = False) -> None:
    """Print the table of a config.

    Raises:
        InputError: no such config; a shape that is not there to be taken from the config.
    """
    cfg = load_config(config, safe=safe)
    need(cfg, config, "model")
    height, width = shape or customary(cfg)
    model = build_meta(cfg)
    table = Table(title=f"{config} at {height} x {width}")
    table.add_column("part")
    table.add_column("parameters, M", justify="right")
    for name, part in model.named_children():
        if parameters := count_parameters(part):
            table.add_row(name, f"{parameters / 1e6:.2f}")
    table.add_row("whole", f"{count_parameters(model) / 1e6:.2f}", style="bold")
    Console().print(table)
    print(f"{count_multiply_adds(model, height, width) / 1e9:.2f} G multiply-adds for one picture")


def customary(cfg: Config) -> tuple[int, int]:
    """Height and width at which models of this kind are counted.

    Raises:
        InputError: a classifier whose pipeline does not say its pictures' size.
    """
    scope = cfg.get("default_scope")
    if scope in CUSTOMARY:
        return CUSTOMARY[scope]
    for step in cfg.get("test_pipeline", ()):
        if isinstance(side := step.get("input_size"), int):
            return side, side
    raise InputError("the config does not say how large its pictures are: give --shape HEIGHT WIDTH")


if __name__ == "__main__":
    sys.exit(main())
