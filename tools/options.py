"""Arguments that several tools take, and what they do to a config."""

import argparse
import os
from pathlib import Path

import torch
from mmengine.config import Config, DictAction

from bestiary.engine.auto_data import fit_to_data, name_data, wants_data
from bestiary.engine.configs import load_config
from bestiary.errors import InputError

EXAMPLE = "quickstart/mask_rcnn_poolformer_digits"


class ConfigOptions(DictAction):
    """mmengine's `--cfg-options key=value ...`, which answers an argument without `=` with a usage message."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        for value in values:
            if "=" not in value:
                parser.error(f"{option_string}: {value!r} is not key=value")
        super().__call__(parser, namespace, values, option_string)


def add_options(parser: argparse.ArgumentParser, launcher: bool = True) -> None:
    """Add `config` and the options of every tool that takes one."""
    parser.add_argument("config", help=f"config file, or the name of one that ships, as {EXAMPLE}")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=ConfigOptions,
        metavar="KEY=VALUE",
        help="change entries of the config: train_cfg.max_epochs=3 'model.neck.in_channels=[64,128]'",
    )
    add_safe_option(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks of bad input, too")
    if not launcher:
        return
    parser.add_argument(
        "--work-dir", help="folder for logs, checkpoints and scores; ./work_dirs/<config name> if left out"
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="how the processes were started; pytorch: torchrun",
    )
    parser.add_argument(
        "--threads", type=at_least_one, help="CPU threads of each process; its share of the cores if left out"
    )
    # torch.distributed.launch gives it; torchrun sets the environment instead.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)


def add_safe_option(parser: argparse.ArgumentParser) -> None:
    """Add `--safe-config`, of every tool that reads a config."""
    parser.add_argument(
        "--safe-config",
        action="store_true",
        help="refuse a config that is more than data: literals, dict(...), _base_, arithmetic; in its bases, too",
    )


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """Add `--data`, the paths of a person's own data."""
    parser.add_argument(
        "--data",
        dest="own_data",
        nargs="+",
        metavar="PATH",
        help="for a config of mydata/: ANNOTATIONS PICTURES, PICTURES LABELS, or PICTURES; then those to validate on",
    )


def add_log_option(parser: argparse.ArgumentParser) -> None:
    """Add `--log`, the services that curves and pictures go to."""
    parser.add_argument(
        "--log",
        "--loggers",  # torchrun takes --log for an abbreviation of options of its own
        default="",
        metavar="NAMES",
        help="where curves, scores and pictures of predictions go, too: wandb,tensorboard,mlflow, or some of them; "
        "after torchrun write --loggers",
    )


def at_least_one(text: str) -> int:
    """A whole number from 1 on, as argparse takes it."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def read_config(args: argparse.Namespace) -> Config:
    """The config of `args`, with its options, launcher and work directory set.

    Raises:
        InputError: the config is not there or does not parse; data that it is to fit are not there or damaged;
            torchrun without `--launcher pytorch`.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    if args.launcher == "none" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "started by torchrun, and --launcher is none: each process would train alone; add --launcher pytorch"
        )
    cfg = load_config(args.config, args.cfg_options, args.safe_config)
    if (paths := getattr(args, "own_data", None)) is not None:
        name_data(cfg, paths)
    if wants_data(cfg):
        for note in fit_to_data(cfg):
            print(note)
        args.fitted = True
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(args.config).name.removesuffix(".py"))
    return cfg


def shortened(args: argparse.Namespace) -> bool:
    """Whether the command line sets the training's length, for a trial."""
    return any(key in (args.cfg_options or {}) for key in ("train_cfg.max_epochs", "train_cfg.max_iters"))


def need(cfg: Config, config: str, *entries: str) -> None:
    """Ask that the config has each of `entries`.

    Raises:
        InputError: one is missing or None.
    """
    missing = [entry for entry in entries if cfg.get(entry) is None]
    if missing:
        raise InputError(f"{config}: the config has no {', '.join(missing)}; is it a part that others inherit from?")


def device_words() -> str:
    """`2 x NVIDIA H100`, or `CPU`."""
    if not torch.cuda.is_available():
        return "CPU"
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
