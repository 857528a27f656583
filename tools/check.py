"""Look for every mistake in a config before it trains: bestiary check CONFIG, with --no-data where the data are not."""

import argparse
import contextlib
import copy
import sys
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from rich.console import Console
from rich.table import Table
from torch import nn

from bestiary.engine.checks import Checked, check_config
from bestiary.engine.complexity import count_parameters, without_weights
from bestiary.engine.first_step import GradientWatch, idle_words, need_finite
from bestiary.engine.launch import explain, run_guarded
from bestiary.engine.quiet import quiet
from bestiary.errors import InputError
from bestiary.tools import trial
from bestiary.tools.check_configs import batches
from bestiary.tools.options import add_data_option, add_options, need, read_config, shortened
from bestiary.tools.parsers import command_parser


def main(argv: list[str] | None = None) -> int:
    """Parse, check, print; returns 1 if there are mistakes."""
    parser = command_parser("check", __doc__)
    add_options(parser, launcher=False)
    add_data_option(parser)
    parser.add_argument("--no-data", action="store_true", help="look at the config alone; random pictures for the step")
    parser.add_argument("--no-step", action="store_true", help="leave the training step on the CPU out")
    parser.add_argument("--pictures", type=int, default=2, help="of the training data, for that step (2)")
    args = parser.parse_args(argv)
    args.launcher, args.local_rank, args.work_dir = "none", 0, None
    mistakes: list[str] = []
    status = run_guarded(lambda: mistakes.extend(check(args)), args.debug)
    return status or int(bool(mistakes))


def check(args: argparse.Namespace) -> list[str]:
    """Check the config of `args` and print what was found; returns the mistakes.

    Raises:
        InputError: the config does not load or has no model.
    """
    cfg = read_config(args)
    need(cfg, args.config, "model")
    init_default_scope(cfg.get("default_scope") or "mmengine")
    found = check_config(cfg, with_data=not args.no_data, shortened=shortened(args))
    step = ""
    if not found.mistakes and not args.no_step and cfg.get("train_dataloader") is not None:
        try:
            step = try_step(cfg, args.pictures, args.no_data, found)
        except InputError as error:
            found.mistakes.append(f"training step: {error}")
    for mistake in found.mistakes:
        print(f"mistake: {mistake}", file=sys.stderr)
    for note in found.notes:
        print(f"note: {note}")
    if found.mistakes:
        print(f"{args.config}: {len(found.mistakes)} mistakes", file=sys.stderr)
    else:
        report(args.config, found, step)
    return found.mistakes


def report(config: str, found: Checked, step: str) -> None:
    """Print what the config has: parameters, weights, objects of each class."""
    console = Console()
    model = found.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    parts = f"{parameters / 1e6:.2f} M parameters, {count_parameters(model) / 1e6:.2f} M of them trained"
    print(f"{config}: no mistakes; {type(model).__name__}, {parts}{step}")
    for name, part in model.named_children():
        print(f"  {name:16s} {sum(parameter.numel() for parameter in part.parameters()) / 1e6:9.2f} M")
    for loaded in found.weights:
        table = Table(title=f"{loaded.key}: keys loaded from {loaded.source}", title_justify="left")
        for heading in ("stage", "loaded", "of"):
            table.add_column(heading, justify="left" if heading == "stage" else "right")
        for stage, (here, there) in loaded.stages.items():
            table.add_row(stage, str(here), str(there))
        console.print(table)
    if found.data:
        console.print(classes_table(found))


def classes_table(found: Checked) -> Table:
    """Objects, pixels or pictures of each class in each split; prints where they are."""
    for split, data in found.data.items():
        print(f"{split}: {data['pictures']} pictures in {data['where']}")
        for note in data["notes"]:
            print(f"  {note}")
    table = Table()
    table.add_column("class")
    for split, data in found.data.items():
        table.add_column(f"{split}, {data['unit']}", justify="right")
    names = dict.fromkeys(name for data in found.data.values() for name in data["classes"])
    for name in names:
        table.add_row(name, *(str(data["classes"].get(name, "")) for data in found.data.values()))
    return table


def try_step(cfg: Config, pictures: int, without_data: bool, found: Checked) -> str:
    """One training step on the CPU, in a copy of the config without weights; what it gave, in words.

    Raises:
        InputError: the step fails; a loss is not finite; a parameter gets no gradient, and the config does not allow
            for it.
    """
    cfg = copy.deepcopy(cfg)
    cfg.model = without_weights(cfg.model)
    torch.manual_seed(0)
    with quiet(), contextlib.redirect_stdout(None):
        try:
            batch = None if without_data else first_samples(cfg, pictures)
            model = trial.build(cfg)
            batch = batches(cfg, model)(pictures) if batch is None else batch
            losses, idle = step(model.train(), batch)
        except InputError:
            raise
        except Exception as error:  # whatever a transform or a head raises is what is looked for
            words = explain(error) or f"{type(error).__name__}: {error}"
            raise InputError(" ".join(words.split())) from error
    if idle and not cfg.get("find_unused_parameters"):
        found.notes.append(idle_words(idle))
    what = "random pictures" if without_data else "pictures of the training data"
    return f"; a step on {pictures} {what}: loss {losses:.3g}"


def step(model: nn.Module, batch: dict) -> tuple[float, list[str]]:
    """Loss and backward; the loss and names of parameters without a gradient.

    Raises:
        InputError: a loss is not finite.
    """
    watch = GradientWatch(model)
    losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
    need_finite(losses)
    total, _ = model.parse_losses(losses)
    total.backward()
    return float(total.detach()), watch.stop()


def first_samples(cfg: Config, count: int) -> Any:
    """The first pictures of the training data, through its pipeline."""
    loader = cfg.train_dataloader
    data = DATASETS.build(loader.dataset)
    return pseudo_collate([data[index % len(data)] for index in range(count)])


if __name__ == "__main__":
    sys.exit(main())
