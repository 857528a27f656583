"""Train a model: bestiary train CONFIG, or torchrun --nproc_per_node=2 tools/train.py CONFIG --launcher pytorch"""

import argparse
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
from bestiary.engine.configs import use_amp
from bestiary.engine.launch import ranks, run_guarded, set_threads
from bestiary.engine.progress import clock
from bestiary.engine.results import checkpoints_of, print_table
from bestiary.engine.runner import build_runner, hook_of
from bestiary.errors import InputError
from bestiary.tools.options import add_data_option, add_options, device_words, need, read_config, shortened


def main(argv: list[str] | None = None) -> int:
    """Parse, train, print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bestiary train", description=__doc__)
    add_options(parser)
    add_data_option(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="PATH",
        help="go on from a checkpoint, its optimizer and epoch; without PATH, from the newest in the work directory",
    )
    parser.add_argument("--load-from", metavar="PATH", help="start from the weights of a checkpoint")
    parser.add_argument("--load-partial", action="store_true", help="of --load-from, take the weights that fit")
    parser.add_argument("--amp", action="store_true", help="mixed precision: float16 on a GPU, bfloat16 on a CPU")
    parser.add_argument("--auto-scale-lr", action="store_true", help="scale the learning rate by the batch size")
    parser.add_argument("--seed", type=int, help="of all random numbers; a run without one draws its own and logs it")
    parser.add_argument("--no-report", action="store_true", help="keep no evidence and write no report.html at the end")
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
        )
        if page := next((getattr(hook, "written", None) for hook in runner.hooks if hasattr(hook, "written")), None):
            print(f"report: {Path(cfg.work_dir) / page.name}")


def change(cfg: Config, args: argparse.Namespace) -> list[str]:
    """Write the command line's wishes into `cfg`; returns what was done, in words.

    Raises:
        InputError: a wish that this config cannot serve; a checkpoint that is not there.
    """
    notes = []
    if args.amp:
        notes.append(use_amp(cfg, torch.cuda.is_available()))
    if args.seed is not None:
        cfg.randomness = {**cfg.get("randomness", {}), "seed": args.seed}
        notes.append(f"seed {args.seed}")
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
        last = checkpoints_of(cfg.work_dir).get("last")
        start = args.resume if args.resume != "auto" else last or "the beginning: the work directory has no checkpoint"
        notes.append(f"resume from {start}")
    cfg.load_partial = args.load_partial
    if args.no_report:
        cfg.report = False
    if cfg.get("load_from") is not None:
        need_checkpoint(cfg.load_from)
    return notes


def report(config: str, cfg: Config, scores: dict[str, float | None], seconds: float) -> None:
    """Print where the results are and what the last evaluation gave."""
    found = checkpoints_of(cfg.work_dir)
    processes = get_world_size()
    if scores:
        print_table(scores, "last evaluation on the validation data", Console())
    print(f"trained in {clock(seconds)}{f' by {processes} processes' if processes > 1 else ''}: {cfg.work_dir}")
    for kind, path in found.items():
        print(f"  {kind} checkpoint: {path}")
    if scores:
        print(f"  scores: {Path(cfg.work_dir) / 'metrics.json'}")
    if checkpoint := found.get("best", found.get("last")):
        print(f"see predictions: bestiary infer {config} {checkpoint} PICTURES --out FOLDER")


if __name__ == "__main__":
    sys.exit(main())
