"""Try configs without their data: build each one small, one training step, one prediction.

tools/check_configs.py --all, or names, paths and folders of configs: the model of each is made small by its own options
(`shrink`), and given random pictures with boxes, masks and labels as its pipelines ask for them. --upstream tries the
configs that mmdet and mmseg ship instead, one a family, with their own backbones and with ours.
"""

import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from rich.console import Console
from rich.table import Table
from torch import nn

from bestiary.engine.configs import SHIPPED, find_config, load_config, shipped_configs
from bestiary.engine.steps import tracked
from bestiary.errors import InputError
from bestiary.tools import trial
from bestiary.tools.parsers import command_parser
from bestiary.tools.shrink import PICTURE, SQUARE, shrink
from bestiary.tools.synthetic import (
    asked_of_data,
    classification_batch,
    detection_batch,
    segmentation_batch,
)
from bestiary.tools.upstream import chosen_cases, sweep


def main(argv: list[str] | None = None) -> int:
    """Parse, try, print the table; returns 1 if a config failed."""
    parser = command_parser("check_configs", __doc__)
    parser.add_argument(
        "configs", nargs="*", help="names, paths or folders; with --upstream families, as 'mmdet/[a-c]*'"
    )
    parser.add_argument("--all", action="store_true", help="every config that ships")
    parser.add_argument("--upstream", action="store_true", help="mmdet's and mmseg's own, one or two a family")
    parser.add_argument("--debug", action="store_true", help="show the traceback of every failure")
    args = parser.parse_args(argv)
    MMLogger.get_current_instance().setLevel("WARNING")  # or every parameter's initial values are told
    try:
        if args.upstream:
            return sweep(chosen_cases(args.configs), args.debug)
        names = chosen(args.configs, args.all)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    table = Table(title="configs, each a training step and a prediction")
    for heading in ("config", "seconds", "loss", "result"):
        table.add_column(heading, justify="left" if heading in ("config", "result") else "right")
    failed = 0
    for name in tracked(names, "try", "configs"):
        began = time.monotonic()
        try:
            loss, words = f"{try_config(name):.3g}", "ok"
        except Exception as error:  # whatever a model raises is what is looked for
            failed += 1
            loss, words = "", f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            if args.debug:
                traceback.print_exc()
        table.add_row(name, f"{time.monotonic() - began:.1f}", loss, words)
    Console().print(table)
    print(f"{len(names) - failed} of {len(names)} configs train and predict")
    return int(failed > 0)


def chosen(given: list[str], everything: bool) -> list[str]:
    """The configs that are asked for: names of those that ship, or paths.

    Raises:
        InputError: nothing is asked for; no such config; a folder without configs.
    """
    if everything == bool(given):
        raise InputError("name configs or folders of them, or give --all")
    if everything:
        return [name for name in shipped_configs() if not name.startswith("ablations/")]
    names: list[str] = []
    for name in given:
        folder = next((path for path in (Path(name), SHIPPED / name) if path.is_dir()), None)
        found = [str(path) for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"] if folder else None
        if found == []:
            raise InputError(f"{name}: a folder without configs")
        names += found or [str(find_config(name))]
    return [_short(Path(name)) for name in names]


def _short(path: Path) -> str:
    """The name of a config that ships, the path of another."""
    path = path.resolve()
    return path.relative_to(SHIPPED).with_suffix("").as_posix() if path.is_relative_to(SHIPPED) else str(path)


def try_config(name: str) -> float:
    """A training step and a prediction of a config made small; returns the loss.

    Raises:
        InputError: a loss or gradient is not finite, a parameter gets no gradient, a prediction is missing. Errors of
            building and running are what they are.
    """
    torch.manual_seed(0)
    cfg = shrink(load_config(name))
    model = trial.build(cfg)
    batch = batches(cfg, model)
    loss = trial.backward(model.train(), batch(2))
    for name, parameter in model.named_parameters():
        if parameter.grad is None and parameter.requires_grad and name.startswith("backbone."):
            raise InputError(f"{name} gets no gradient: DDP would wait for it")
    trial.predict(model, batch(1))
    return loss


def batches(cfg: Config, model: nn.Module) -> Callable[[int], dict[str, list]]:
    """What makes batches of the given number of pictures for a model."""
    if hasattr(model, "logits"):
        return lambda count: classification_batch(SQUARE, model.head.num_classes, count)
    if hasattr(model, "decode_head"):
        # mmseg's cross-entropy looks the ignored label up among class weights, where it is not.
        ignored = 0.0 if "class_weight" in repr(cfg.model.decode_head) else 0.1
        return lambda count: segmentation_batch(PICTURE, model.num_classes, count, ignored=ignored)
    wanted = asked_of_data(cfg.train_dataloader)
    things = 80 if hasattr(model, "panoptic_head") else classes_of(cfg.model)
    return lambda count: detection_batch((PICTURE,) * count, wanted, things)


def classes_of(node: Any) -> int:
    """`num_classes` of the first head that has it."""
    if isinstance(node, dict) and isinstance(node.get("num_classes"), int):
        return node["num_classes"]
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ():
        if found := classes_of(child):
            return found
    return 0


if __name__ == "__main__":
    sys.exit(main())
