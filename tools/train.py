"""Train a model: bestiary train CONFIG, or torchrun --nproc_per_node=2 tools/train.py CONFIG --launcher pytorch"""

import argparse
import os
import sys
import time
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from rich.console import Console

from bestiary.backbones.reading import need_checkpoint
from bestiary.engine.checks import refuse_mistakes
from bestiary.engine.checks.weights import words_of
from bestiary.engine.launch import ranks, run_guarded, set_threads
from bestiary.engine.loggers import add_loggers, loggers_of
from bestiary.engine.loggers.hook import loggers_in
from bestiary.engine.parallel.choice import KINDS, read_parallel
from bestiary.engine.parallel.choice import words_of as words_of_parallel
from bestiary.engine.parallel.folder import is_sharded_checkpoint
from bestiary.engine.precision import AMP, EMA_MOMENTUM, PARTS, ema_hook, use_amp
from bestiary.engine.progress import clock
from bestiary.engine.results import checkpoints_of, print_table
from bestiary.engine.runner import build_runner, hook_of
from bestiary.errors import InputError
from bestiary.tools.options import (
    add_data_option,
    add_log_option,
    add_options,
    device_words,
    need,
    read_config,
    shortened,
)
from bestiary.tools.parsers import command_parser


def main(argv: list[str] | None = None) -> int:
    """Parse, train, print; returns the exit status."""
    parser = command_parser("train", __doc__)
    add_options(parser)
    add_data_option(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from a checkpoint, as if there had been no break; without PATH (or with 'auto'), from the newest "
        "whole one in the work directory",
    )
    parser.add_argument("--load-from", metavar="PATH", help="start from the weights of a checkpoint")
    parser.add_argument("--load-partial", action="store_true", help="of --load-from, take the weights that fit")
    parser.add_argument(
        "--amp",
        nargs="?",
        const=True,
        choices=list(AMP),
        help="mixed precision; without a value float16 on a GPU, bfloat16 on a CPU",
    )
    parser.add_argument("--channels-last", action="store_true", help="convolutions and pictures as (B, H, W, C)")
    parser.add_argument(
        "--compile", nargs="?", const="backbone", choices=PARTS, help="compile the backbone, or the whole model"
    )
    parser.add_argument(
        "--ema",
        nargs="?",
        const=EMA_MOMENTUM,
        type=float,
        metavar="MOMENTUM",
        help=f"average the weights, and evaluate and save the average; share of the new weights, or {EMA_MOMENTUM}",
    )
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate by the batch size")
    parser.add_argument(
        "--parallel", choices=KINDS, help="what ranks hold: all (ddp), or shares of the optimizer or of everything"
    )
    parser.add_argument("--seed", type=int, help="of all random numbers; a run without one draws its own and logs it")
    parser.add_argument(
        "--deterministic", action="store_true", help="the same weights bit for bit in every run on the same machine"
    )
    parser.add_argument("--no-report", action="store_true", help="keep no evidence and write no report.html at the end")
    add_log_option(parser)
    parser.add_argument(
        "--log-checkpoints", action="store_true", help="wandb and mlflow keep the last and the best checkpoint, too"
    )
    args = parser.parse_args(argv)
    return run_guarded(lambda: train(args), args.debug)


def train(args: argparse.Namespace) -> None:
    """Train as `args` say.

    Raises:
        InputError: the config, its data or its checkpoint do not fit.
    """
    cfg = read_config(args)
    need(cfg, args.config, "model", "train_dataloader", "train_cfg", "optim_wrapper")
    rank, local_rank, _ = ranks(args.launcher)
    threads = set_threads(args.launcher, args.threads)
    notes = change(cfg, args)
    if local_rank == 0:
        found = refuse_mistakes(
            cfg, ["train"] if cfg.get("val_dataloader") is None else ["train", "val"], shortened(args)
        )
        notes += [words_of(loaded) for loaded in found.weights]
    if rank == 0:
        print(f"train {args.config}: {device_words()}, {threads} CPU threads a process; into {cfg.work_dir}")
        for note in notes:
            print(note)
        sys.stdout.flush()
    began = time.monotonic()
    runner = build_runner(cfg)
    try:
        runner.train()
    finally:
        hook_of(runner, "ProgressHook").close()
    if is_main_process():
        # The config as it was fitted to the data is the one that knows their classes.
        fitted = str(Path(cfg.work_dir) / Path(cfg.filename).name)
        report(
            fitted if getattr(args, "fitted", False) else args.config,
            cfg,
            hook_of(runner, "ResultsHook").scores,
            time.monotonic() - began,
            hook_of(runner, "BadSamplesHook").words(),
        )
        pages = [hook.written for hook in runner.hooks if type(hook).__name__ == "ReportHook" and hook.written]
        for page in pages:
            print(f"report: {Path(cfg.work_dir) / page.name}")
        for logger in loggers_in(runner.visualizer):
            print(f"  {logger.words()}")


def change(cfg: Config, args: argparse.Namespace) -> list[str]:
    """Write the command line's wishes into `cfg`; returns what was done, in words.

    Raises:
        InputError: a wish that this config cannot serve; a checkpoint that is not there.
    """
    notes = add_loggers(cfg, loggers_of(args.log), "train", args.log_checkpoints)
    if args.amp is not None:
        cfg.amp = args.amp
    if cfg.get("amp"):
        notes.append(use_amp(cfg, torch.cuda.is_available(), cfg.amp))
    if args.channels_last:
        cfg.channels_last = True
        notes.append("channels last: convolutions and pictures as (B, H, W, C)")
    if args.compile is not None:
        cfg.compile = args.compile
        notes.append(f"the {args.compile} is compiled in the first iteration")
    if args.ema is not None:
        cfg.ema = args.ema
        notes.append(f"weights are averaged with momentum {ema_hook(args.ema)['momentum']}: the average is evaluated")
    if args.seed is not None:
        cfg.randomness = {**cfg.get("randomness", {}), "seed": args.seed}
        notes.append(f"seed {args.seed}")
    if args.deterministic:
        cfg.randomness = {**cfg.get("randomness", {}), "deterministic": True}
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses; read at its first use
        notes.append("deterministic: an operation that PyTorch cannot make so is refused")
    if args.auto_scale_lr:
        base = cfg.get("auto_scale_lr", {}).get("base_batch_size")
        if base is None:
            raise InputError(
                "--auto-scale-lr: the config does not say for which batch size its learning rate is; "
                "set auto_scale_lr.base_batch_size"
            )
        cfg.auto_scale_lr.enable = True
        notes.append(f"the learning rate is for a batch of {base} and is scaled to this run's")
    if args.resume is not None and args.load_from is not None:
        raise InputError("--resume and --load-from: give one; resuming loads the weights, too")
    if args.load_from is not None:
        cfg.load_from, cfg.resume = args.load_from, False
    if args.resume is not None:
        cfg.resume, cfg.load_from = True, None if args.resume == "auto" else args.resume
        notes.append(f"resume from {'the newest whole checkpoint' if args.resume == 'auto' else args.resume}")
    cfg.load_partial = args.load_partial
    if args.no_report:
        cfg.report = False
    if cfg.get("load_from") is not None and not (cfg.get("resume") and is_sharded_checkpoint(cfg.load_from)):
        need_checkpoint(cfg.load_from)
    if args.parallel is not None:
        cfg.parallel = args.parallel
    notes.append(words_of_parallel(read_parallel(cfg.get("parallel")), args.launcher != "none"))
    return [note for note in notes if note is not None]


def report(config: str, cfg: Config, scores: dict[str, float | None], seconds: float, unread: str = "") -> None:
    """Print where the results are, what the last evaluation gave, and what could not be read."""
    found = checkpoints_of(cfg.work_dir)
    processes = get_world_size()
    if scores:
        print_table(scores, "last evaluation on the validation data", Console())
    print(f"trained in {clock(seconds)}{f' by {processes} processes' if processes > 1 else ''}: {cfg.work_dir}")
    for kind, path in found.items():
        print(f"  {kind} checkpoint: {path}")
    if unread:
        print(f"  {unread}")
    if scores:
        print(f"  scores: {Path(cfg.work_dir) / 'metrics.json'}")
    if checkpoint := found.get("best", found.get("last")):
        if checkpoint.is_dir():
            print(f"one file of its weights: bestiary merge {checkpoint} {checkpoint.with_suffix('.safetensors')}")
            checkpoint = checkpoint.with_suffix(".safetensors")
        print(f"see predictions: bestiary infer {config} {checkpoint} PICTURES --out FOLDER")


if __name__ == "__main__":
    sys.exit(main())
