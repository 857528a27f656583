"""Evaluate a checkpoint on the config's test data: bestiary test CONFIG CHECKPOINT"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process

from bestiary.backbones.reading import need_checkpoint
from bestiary.engine.launch import ranks, run_guarded, set_threads
from bestiary.engine.results import print_table
from bestiary.engine.runner import build_runner, hook_of
from bestiary.errors import InputError
from bestiary.inputs.checks import check_inputs
from bestiary.tools.options import add_options, device_words, need, read_config


def main(argv: list[str] | None = None) -> int:
    """Parse, evaluate, print; returns the exit status."""
    parser = argparse.ArgumentParser(prog="bestiary test", description=__doc__)
    add_options(parser)
    parser.add_argument("checkpoint", help="weights to evaluate: .pth or .safetensors")
    parser.add_argument(
        "--out", metavar="FILE.pkl", help="write all predictions, pickled, as mmengine's DumpResults does"
    )
    parser.add_argument("--show-dir", metavar="FOLDER", help="draw the predictions into this folder")
    args = parser.parse_args(argv)
    return run_guarded(lambda: test(args), args.debug)


def test(args: argparse.Namespace) -> None:
    """Evaluate as `args` say.

    Raises:
        InputError: the config, its data or the checkpoint do not fit.
    """
    cfg = read_config(args)
    need(cfg, args.config, "model", "test_dataloader", "test_evaluator", "test_cfg")
    rank, local_rank, _ = ranks(args.launcher)
    set_threads(args.launcher, args.threads)
    need_checkpoint(args.checkpoint)
    if local_rank == 0:
        check_inputs(cfg, ["test"])
    change(cfg, args)
    if rank == 0:
        print(f"test {args.config} with {args.checkpoint}: {device_words()}; into {cfg.work_dir}", flush=True)
    runner = build_runner(cfg)
    try:
        runner.test()
    finally:
        hook_of(runner, "ProgressHook").close()
    if is_main_process():
        print_table(hook_of(runner, "ResultsHook").scores, f"{args.checkpoint} on the test data")
        print(f"scores: {Path(cfg.work_dir) / 'metrics.json'}")


def change(cfg: Config, args: argparse.Namespace) -> None:
    """Write the command line's wishes into `cfg`.

    Raises:
        InputError: --out is not a pickle.
    """
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.out is not None:
        if not args.out.endswith((".pkl", ".pickle")):
            raise InputError(f"--out {args.out}: predictions are written as a pickle; name it .pkl")
        evaluator = cfg.test_evaluator
        evaluators = list(evaluator) if isinstance(evaluator, list | tuple) else [evaluator]
        cfg.test_evaluator = [*evaluators, dict(type="DumpResults", out_file_path=args.out)]
    if args.show_dir is not None:
        hook = dict(type="bestiary.DrawHook", out=args.show_dir)
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or ()), hook]


if __name__ == "__main__":
    sys.exit(main())
