"""Evaluate a checkpoint on the config's test data: bestiary test CONFIG CHECKPOINT"""

import argparse
import copy
import hashlib
import sys
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process
from rich.console import Console

from bestiary.backbones.reading import need_checkpoint
from bestiary.engine.configs import SHIPPED, base_dataset, load_config
from bestiary.engine.launch import ranks, run_guarded, set_threads
from bestiary.engine.loggers import add_loggers, loggers_of
from bestiary.engine.loggers.hook import loggers_in
from bestiary.engine.metrics.coco import BACKENDS
from bestiary.engine.results import print_table
from bestiary.engine.runner import build_runner, hook_of
from bestiary.engine.tta import use_tta
from bestiary.errors import InputError
from bestiary.inputs.check_files import digest
from bestiary.inputs.checks import check_inputs
from bestiary.tools.options import add_log_option, add_options, device_words, need, read_config
from bestiary.tools.parsers import command_parser


def main(argv: list[str] | None = None) -> int:
    """Parse, evaluate, print; returns the exit status."""
    parser = command_parser("test", __doc__)
    add_options(parser)
    parser.add_argument("checkpoint", help="weights to evaluate: .pth or .safetensors")
    parser.add_argument(
        "--out", metavar="FILE.pkl", help="write all predictions, pickled, as mmengine's DumpResults does"
    )
    parser.add_argument("--show-dir", metavar="FOLDER", help="draw the predictions into this folder")
    parser.add_argument(
        "--coco-backend", choices=BACKENDS, help="evaluate COCO's scores by faster-coco-eval, or by pycocotools"
    )
    parser.add_argument(
        "--data",
        metavar="CONFIG",
        help="take the data set and the metrics of another config, the pictures prepared as this config's; a path, or "
        "imagenet_v2, imagenet_real",
    )
    parser.add_argument("--per-class", action="store_true", help="print the tables of scores by class and by size")
    parser.add_argument(
        "--tta", action="store_true", help="test-time augmentation: by the config's tta_model, or flips, scales, crops"
    )
    parser.add_argument(
        "--save-predictions",
        metavar="FOLDER",
        help="write COCO's results, label PNGs or Parquet there, in pieces while the test runs",
    )
    parser.add_argument(
        "--resume-predictions", action="store_true", help="go on with what an earlier run left in that folder"
    )
    add_log_option(parser)
    args = parser.parse_args(argv)
    return run_guarded(lambda: test(args), args.debug)


def test(args: argparse.Namespace) -> None:
    """Evaluate as `args` say.

    Raises:
        InputError: the config, its data or the checkpoint do not fit.
    """
    cfg = read_config(args)
    need(cfg, args.config, "model", "test_dataloader", "test_evaluator", "test_cfg")
    if args.data is not None:
        take_data(cfg, args.data, args.safe_config)
    rank, local_rank, _ = ranks(args.launcher)
    set_threads(args.launcher, args.threads)
    need_checkpoint(args.checkpoint)
    if local_rank == 0:
        check_inputs(cfg, ["test"])
    said = change(cfg, args) + add_loggers(cfg, loggers_of(args.log), "test")
    if rank == 0:
        print(f"test {args.config} with {args.checkpoint}: {device_words()}; into {cfg.work_dir}", flush=True)
        for line in said:
            print(line, flush=True)
    runner = build_runner(cfg)
    try:
        runner.test()
    finally:
        hook_of(runner, "ProgressHook").close()
    if is_main_process():
        if args.per_class:
            for metric in runner.test_evaluator.metrics:
                for table in getattr(metric, "tables", ()):
                    Console().print(table)
        print_table(hook_of(runner, "ResultsHook").scores, f"{args.checkpoint} on the test data")
        print(f"scores: {Path(cfg.work_dir) / 'metrics.json'}")
        for logger in loggers_in(runner.visualizer):
            print(logger.words())


def take_data(cfg: Config, name: str, safe: bool = False) -> None:
    """Put another config's test data and metrics into `cfg`; how pictures are prepared and batched stays.

    Raises:
        InputError: there is no such config; it has no test data.
    """
    beside = f"_base_/datasets/{name.removesuffix('.py')}.py"
    other = load_config(beside if "/" not in name and (SHIPPED / beside).is_file() else name, safe=safe)
    need(other, name, "test_dataloader", "test_evaluator")
    pipeline = base_dataset(cfg.test_dataloader.dataset).get("pipeline")
    dataset = copy.deepcopy(other.test_dataloader.dataset)
    if pipeline is not None:
        base_dataset(dataset).pipeline = pipeline
    cfg.test_dataloader.dataset, cfg.test_evaluator = dataset, copy.deepcopy(other.test_evaluator)


def change(cfg: Config, args: argparse.Namespace) -> list[str]:
    """Write the command line's wishes into `cfg`; returns what is worth telling.

    Raises:
        InputError: --out is not a pickle; no metric takes --coco-backend; the config does not go with --tta, or the
            folder with --save-predictions.
    """
    cfg.load_from, cfg.resume = args.checkpoint, False
    said = []
    evaluator = cfg.test_evaluator
    evaluators = list(evaluator) if isinstance(evaluator, list | tuple) else [evaluator]
    if args.coco_backend is not None:
        cfg.test_evaluator = evaluators = with_coco_backend(evaluators, args.coco_backend)
    if args.out is not None:
        if not args.out.endswith((".pkl", ".pickle")):
            raise InputError(f"--out {args.out}: predictions are written as a pickle; name it .pkl")
        cfg.test_evaluator = [*evaluators, dict(type="DumpResults", out_file_path=args.out)]
    if args.show_dir is not None:
        hook = dict(type="bestiary.DrawHook", out=args.show_dir)
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or ()), hook]
    if args.tta:
        said.append(use_tta(cfg))
    if args.save_predictions is not None:
        save_predictions(cfg, args)
    elif args.resume_predictions:
        raise InputError("--resume-predictions: name the folder by --save-predictions FOLDER")
    return said


def with_coco_backend(evaluators: list[dict], backend: str) -> list[dict]:
    """mmdet's CocoMetric and ours -> ours with that backend; others as they are.

    Raises:
        InputError: there is no CocoMetric.
    """
    changed = [dict(metric) for metric in evaluators]
    ours = [metric for metric in changed if str(metric.get("type")).split(".")[-1] in ("CocoMetric", "LvisMetric")]
    if not ours:
        raise InputError("--coco-backend: test_evaluator has no CocoMetric")
    for metric in ours:
        metric.update(type=f"bestiary.{metric['type'].split('.')[-1]}", backend=backend)
    return changed


def save_predictions(cfg: Config, args: argparse.Namespace) -> None:
    """Test by the loop that saves.

    Raises:
        InputError: the config has a test loop of its own.
    """
    loop = dict(cfg.test_cfg)
    if str(loop.get("type", "TestLoop")).split(".")[-1] != "TestLoop":
        raise InputError(f"--save-predictions: it takes test_cfg.type='TestLoop', the config has {loop['type']!r}")
    source = {"checkpoint": digest(args.checkpoint), "config": digest_of_config(cfg)}
    loop.update(type="bestiary.SavingTestLoop", folder=args.save_predictions, source=source)
    cfg.test_cfg = loop | {"resume": args.resume_predictions}


def digest_of_config(cfg: Config) -> str:
    """SHA-256 of what predictions depend on: the model and the test data."""
    parts = [cfg.model, cfg.test_dataloader["dataset"], cfg.test_dataloader.get("batch_size")]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
