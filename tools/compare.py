"""Measure backbones side by side: size, speed, memory and accuracy, ours, timm's and those of configs and runs.

All take turns within one run, so that a machine that drifts hurts all alike. A name of `bestiary list` is ours;
timm:NAME and any other name of timm's is timm's; a config is its classifier, or the backbone of its detector or
segmentor; a work directory is the config and the score of its run.
"""

import argparse
import copy
import gc
import itertools
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from bestiary.engine.complexity import count_forward
from bestiary.engine.steps import Steps
from bestiary.errors import InputError
from bestiary.tools import bench_frame, compare_tables, contenders, machine, scatter
from bestiary.tools.contenders import Contender
from bestiary.tools.growth import Growth, free_unused
from bestiary.tools.jobs import cores
from bestiary.tools.parsers import command_parser
from bestiary.tools.passes import PASSES, compiled_afresh, forward, loss_of, turn
from bestiary.tools.timing import in_turns


class Setting(NamedTuple):
    """What the turns of one comparison have in common."""

    batch: int
    size: int
    mode: str  # 'eager' or 'compiled'
    layout: str  # 'contiguous' or 'channels-last'
    dtype: str

    def words(self) -> str:
        """`batch 2 at 224 x 224, eager, float32`."""
        layout = ", channels last" if self.layout == "channels-last" else ""
        return f"batch {self.batch} at {self.size} x {self.size}, {self.mode}, {self.dtype}{layout}"


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print, write; returns the exit status."""
    args = arguments().parse_args(argv)
    if args.one:
        print(json.dumps(memory_here(json.loads(args.one))))
        return 0
    return bench_frame.guarded(lambda: compare(args))


def arguments() -> argparse.ArgumentParser:
    parser = command_parser(
        "compare",
        __doc__,
        "columns: M parameters and G multiply-adds of one picture; pictures a second, medians; MB that a pass takes at "
        "most beside weights and pictures; accuracy as published, or as a run scored. A dot marks the Pareto front: no "
        "other is both faster in inference and more accurate.",
    )
    add = parser.add_argument
    add("contenders", nargs="*", metavar="NAME|CONFIG|WORK_DIR", help="what to set side by side")
    add("--features", action="store_true", help="compare feature maps, without classification heads")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    add("--batch", nargs="+", type=int, default=[8], help="pictures at a time (8)")
    add("--size", nargs="+", type=int, default=[224], help="sides of the pictures (224)")
    add("--modes", nargs="+", choices=["eager", "compiled"], default=["eager"], help="by torch.compile or not (eager)")
    add("--layouts", nargs="+", choices=["contiguous", "channels-last"], default=["contiguous"], help="memory formats")
    add("--dtype", nargs="+", choices=["float32", "bfloat16", "float16"], default=["float32"], help="of autocast")
    add("--threads", type=int, default=cores(), help="CPU threads (all cores)")
    add("--seconds", type=float, default=20.0, help="for all contenders of one pass and setting together (20)")
    add("--memory", action="store_true", help="measure the memory of each pass, in processes of their own")
    add("--accuracy", nargs="+", default=[], metavar="NAME=PERCENT", help="accuracies that no card and no run has")
    add("--note", help="a sentence for the record, as what else the machine did")
    add("--out", metavar="FILE", help="write the record as JSON")
    add("--csv", metavar="FILE", help="write the rows as CSV")
    add("--markdown", metavar="FILE", help="write the tables in Markdown")
    add("--plot", metavar="FILE", help="draw accuracy over speed: .svg or .png")
    add("--plot-width", type=float, default=8.0, metavar="INCHES", help="of the picture (8)")
    add("--from", dest="replay", metavar="FILE", help="measure nothing: tables and plot of a record")
    add("--one", help=argparse.SUPPRESS)  # what --memory starts
    return parser


def compare(args: argparse.Namespace) -> int:
    """Measure, or read what was measured; show and write it.

    Raises:
        InputError: a contender, a number or a file does not fit.
    """
    for option in ("csv", "markdown", "plot"):
        bench_frame.need_writable(f"--{option}", getattr(args, option))
    if args.plot:
        scatter.need_format(args.plot, args.plot_width)
    if args.replay:
        if args.contenders:
            raise InputError("--from: it shows a record; leave the contenders out")
        record = read_record(args.replay)
    else:
        record = measure_all(args)
    bench_frame.write_record(None if args.replay else args.out, record)
    rows = compare_tables.rows_of(record)
    for table in compare_tables.tables(record, rows):
        bench_frame.console().print(table)
    for note in compare_tables.notes(record):
        print(note)
    if args.csv:
        compare_tables.write_csv(args.csv, rows)
    if args.markdown:
        Path(args.markdown).write_text(compare_tables.markdown(record, rows), encoding="utf-8")
    if args.plot:
        for note in scatter.draw(args.plot, record, rows, args.plot_width):
            print(note)
    return 0


def read_record(path: str) -> dict[str, Any]:
    """A record that `--out` wrote.

    Raises:
        InputError: it is not there, or not a record of this tool.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--from {path}: cannot be read: {error}") from error
    if not isinstance(record, dict) or record.get("tool") != "compare":
        raise InputError(f"--from {path}: not a record of `bestiary compare --out`")
    return record


def measure_all(args: argparse.Namespace) -> dict[str, Any]:
    """The record of a comparison."""
    if not args.contenders:
        raise InputError("name what to compare: backbones, timm:NAME, configs, work directories")
    found = contenders.named_apart([contenders.resolve(text) for text in dict.fromkeys(args.contenders)])
    found = contenders.given(args.accuracy, found)
    features = args.features or not all(one.classifies for one in found)
    if args.plot and not any(one.accuracy for one in found):
        raise InputError("--plot: no accuracy is known of any of these: give --accuracy NAME=PERCENT")
    device = bench_frame.prepare(args)
    settings = list(
        itertools.starmap(Setting, itertools.product(args.batch, args.size, args.modes, args.layouts, args.dtype))
    )
    record = machine.record("compare", args, device, features=features, contenders={}, results=[])
    steps_a_setting = len(args.passes) + (len(found) if args.memory else 0)
    with Steps("compare", len(found) + len(settings) * steps_a_setting, "steps") as steps:
        for one in found:
            steps.begin(f"count {one.name}")
            record["contenders"][one.name] = described(one, features, args.size, device)
            if "training" in args.passes and min(args.batch) == 1:
                need_trainable_alone(one, features, min(args.size), device)
            steps.done()
        for setting in settings:
            record["results"].append(measure(found, features, setting, args, device, steps))
            gc.collect()
    return record


def described(one: Contender, features: bool, sizes: list[int], device: torch.device) -> dict[str, Any]:
    """What is known of a contender before it is timed; it is built and tried at every size."""
    counts = {}
    for size in sizes:
        model = contenders.ready(one, features, size, device)
        counts[str(size)] = count_forward(copy.deepcopy(model).to("meta"), size, size)
    return {
        "asked": one.text,
        "whose": one.whose,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": counts,
        "accuracy": one.accuracy and one.accuracy._asdict(),
    }


def need_trainable_alone(one: Contender, features: bool, size: int, device: torch.device) -> None:
    """A picture of that size can be trained on alone.

    Raises:
        InputError: a batch norm would have one value a channel.
    """
    model = contenders.ready(one, features, size, device).to("meta").train()
    try:
        model(torch.empty(1, 3, size, size, device="meta"))
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise InputError(
            f"{one.name}: one picture of {size} x {size} leaves a batch norm one value a channel, on which it cannot "
            "be trained; take --batch 2 or more, or --passes inference"
        ) from error


def measure(
    found: list[Contender],
    features: bool,
    setting: Setting,
    args: argparse.Namespace,
    device: torch.device,
    steps: Steps,
) -> dict[str, Any]:
    """Times of all contenders in one setting, in turns; memory, each in a process of its own."""
    models = {one.name: placed(contenders.ready(one, features, setting.size, device), setting) for one in found}
    runs: dict[str, Any] = dict(models)
    if setting.mode == "compiled":
        runs = dict(zip(models, compiled_afresh(models.values()), strict=True))
    picture = pictures(setting, device)
    result: dict[str, Any] = {**setting._asdict(), "passes": {}, "memory": {}}
    for which in args.passes:
        turns = {
            name: turn(runs[name], model, picture, which, getattr(torch, setting.dtype))
            for name, model in models.items()
        }
        for name, warm in turns.items():  # compiles, too
            steps.begin(f"{which}, {setting.words()}: {name}")
            warm()
        timings, load = in_turns(turns, args.seconds)
        result["passes"][which] = {
            "timings": {name: timing._asdict() for name, timing in timings.items()},
            "load": load._asdict(),
        }
        steps.done()
    if args.memory:
        del models, runs, turns
        for one in found:
            steps.begin(f"memory, {setting.words()}: {one.name}")
            told = dict(text=one.text, features=features, setting=setting, passes=args.passes)
            told |= dict(threads=args.threads, device=args.device)
            result["memory"][one.name] = bench_frame.in_fresh_process(
                "bestiary.tools.compare", f"memory of {one.name}", "--one", json.dumps(told)
            )
            steps.done()
    return result


def placed(model: nn.Module, setting: Setting) -> nn.Module:
    """The model with its weights in the setting's memory format."""
    return model.to(memory_format=torch.channels_last) if setting.layout == "channels-last" else model


def pictures(setting: Setting, device: torch.device) -> torch.Tensor:
    """A batch of random ones."""
    batch = torch.randn(setting.batch, 3, setting.size, setting.size, generator=torch.Generator().manual_seed(1))
    return placed(batch.to(device), setting)


def memory_here(told: dict[str, Any]) -> dict[str, int]:
    """Bytes that each pass takes at most beside weights and pictures, in the process that calls."""
    torch.set_num_threads(told["threads"])
    setting, device = Setting(*told["setting"]), torch.device(told["device"])
    model = placed(contenders.ready(contenders.resolve(told["text"]), told["features"], setting.size, device), setting)
    dtype, compiled = getattr(torch, setting.dtype), setting.mode == "compiled"
    run = compiled_afresh([model])[0] if compiled else model

    def step(picture: torch.Tensor, training: bool) -> None:
        model.train(training)
        with torch.set_grad_enabled(training):
            out = forward(run, picture, dtype)
        if training:
            loss_of(out).backward()
        model.zero_grad(set_to_none=True)

    batch, used = pictures(setting, device), {}
    for which in told["passes"]:
        training = which == "training"
        # Libraries and threads; batch norms want two pictures, and what is compiled is so for one size.
        step(batch if compiled else torch.cat([batch, batch])[:2], training)
        free_unused()
        with Growth(device) as growth:
            step(batch, training)
        used[which] = growth.bytes
    return used


if __name__ == "__main__":
    sys.exit(main())
