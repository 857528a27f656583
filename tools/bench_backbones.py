"""Time our backbones against timm's of the same weights, in turns within one run; check first that they agree.

Prints a table and, with --out, writes JSON: machine, versions, pictures a second, ratios, memory.
"""

import argparse
import gc
import statistics
import sys
from typing import Any

import timm
import torch
from rich import box
from rich.table import Table

from bestiary.backbones import list_backbones
from bestiary.engine.steps import Steps
from bestiary.errors import InputError
from bestiary.tools import backbone_memory, bench_frame, machine
from bestiary.tools.backbone_pair import Pair, pair
from bestiary.tools.parsers import command_parser
from bestiary.tools.passes import PASSES, compiled_afresh, turn
from bestiary.tools.timing import Timing, in_turns

TOLERANCE = 1e-3  # of the largest logit, in float32 through a whole network
# The smallest of every family that timm has, or nearly: speed is asked of a family, and hours are short.
USUAL = (
    "davit_tiny",
    "maxvit_tiny_tf_224",
    "focalnet_tiny_srf",
    "focalnet_tiny_lrf",
    "poolformer_s12",
    "poolformerv2_s12",
    "convformer_s18",
    "caformer_s18",
    "shvit_s1",
    "shvit_s4",
    "resnet50",
    "ecaresnet50d",
)


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print, write; returns the exit status: 1 if ours differs from timm's, or for bad input."""
    args = arguments().parse_args(argv)
    return bench_frame.guarded(lambda: compare(args))


def arguments() -> argparse.ArgumentParser:
    parser = command_parser(
        "benchmark backbones",
        __doc__,
        "columns: pictures a second, medians; x ours to timm's, of medians and of the best calls; MB at most "
        "while training, beside the weights",
    )
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME", help=f"as `bestiary list` prints them; left out: {', '.join(USUAL)}")
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--passes", nargs="+", choices=PASSES, default=list(PASSES))
    add("--compile", action="store_true", help="torch.compile both")
    add("--channels-last", action="store_true", help="put timm's model and the pictures into channels_last as well")
    add("--batch", type=int, default=8)
    add("--size", type=int, default=224, help="side of the picture (224)")
    add("--threads", type=int, default=2, help="CPU threads (2)")
    add("--seconds", type=float, default=10.0, help="for the two of one pass together (10)")
    add("--memory", action="store_true", help="measure the memory of a training step, in processes of their own")
    add("--out", metavar="FILE", help="write the record as JSON")
    return parser


def compare(args: argparse.Namespace) -> int:
    """Every name against timm's model of the same name."""
    names = args.names or [name for name in USUAL if name in list_backbones()]
    bench_frame.need_backbones(names)
    if strangers := [name for name in names if not timm.is_model(name)]:
        raise InputError(f"timm {timm.__version__} has no {', '.join(strangers)}: there is nothing to compare with")
    device = bench_frame.prepare(args)
    record = machine.record("bench_backbones", args, device, results=[])
    with Steps("time", len(names), "names") as steps:
        for name in names:
            steps.begin(name)
            result = measure(name, args, device)
            record["results"].append(result)
            steps.done()
            steps.say(line(result))
            gc.collect()
    record["summary"] = summarize(record["results"])
    bench_frame.console().print(show(record))
    bench_frame.write_record(args.out, record)
    return int(any("wrong" in result for result in record["results"]))


def measure(name: str, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Check that the two agree, then let them take turns."""
    models = pair(name, args.size)
    picture = torch.randn(args.batch, 3, args.size, args.size, generator=torch.Generator().manual_seed(1)).to(device)
    result: dict[str, Any] = {"name": name, "passes": {}}
    with torch.no_grad():
        one, other = (model.to(device).eval()(picture) for model in models)
    deviation = float((one - other).abs().max() / other.abs().max())
    result["deviation"] = deviation
    if not deviation <= TOLERANCE:
        return result | {"wrong": deviation}
    theirs_picture = picture
    if args.channels_last:
        models.timm.to(memory_format=torch.channels_last)
        theirs_picture = picture.to(memory_format=torch.channels_last)
    runs = compiled_afresh(models) if args.compile else list(models)
    for which in args.passes:
        turns = {
            "ours": turn(runs[0], models.ours, picture, which),
            "timm": turn(runs[1], models.timm, theirs_picture, which),
        }
        for warm in turns.values():
            warm()
        timings, load = in_turns(turns, args.seconds, least=3)
        result["passes"][which] = rates(timings, args.batch) | {"load": load._asdict()}
    if args.memory:
        result["memory"] = {
            who: backbone_memory.measure(name, who, args.batch, args.size, args.threads, device) for who in Pair._fields
        }
    return result


def rates(timings: dict[str, Timing], batch: int) -> dict[str, Any]:
    """Pictures a second of both, and their ratios."""
    ours, theirs = timings["ours"], timings["timm"]
    return {
        "ours": {"median": batch / ours.median, "best": batch / ours.best, "calls": ours.calls},
        "timm": {"median": batch / theirs.median, "best": batch / theirs.best, "calls": theirs.calls},
        "ratio": {
            "median": theirs.median / ours.median,
            "best": theirs.best / ours.best,
            "processor": theirs.processor / ours.processor if theirs.processor and ours.processor else None,
        },
    }


def summarize(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means of the ratios over the names, and the least."""
    found = {}
    for which in PASSES:
        ratios = {result["name"]: one["ratio"] for result in results if (one := result["passes"].get(which))}
        if ratios:
            least = min(ratios, key=lambda name: ratios[name]["median"])
            found[which] = {
                part: statistics.geometric_mean(values)
                for part in ("median", "best", "processor")
                if (values := [ratio[part] for ratio in ratios.values() if ratio[part]])
            } | {"least": least, "least_median": ratios[least]["median"]}
    return found


def line(result: dict[str, Any]) -> str:
    """What is known of one name so far, in a line."""
    if "wrong" in result:
        return f"{result['name']}: WRONG, logits differ from timm's by {result['wrong']:.1e} of the largest"
    ratios = ", ".join(f"{which} {one['ratio']['median']:.2f} x" for which, one in result["passes"].items())
    return f"{result['name']}: logits agree to {result['deviation']:.0e}; {ratios}"


def show(record: dict[str, Any]) -> Table:
    """A row a name and pass; then the geometric means."""
    told = record["arguments"]
    table = Table(
        title=f"{'compiled' if told['compile'] else 'eager'}, float32, batch {told['batch']} at {told['size']}, "
        f"{told['threads']} threads; {record['machine'].get('gpu') or record['machine']['cpu']}",
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1),
    )
    for heading in ("", "", "ours", "timm", "x", "x best", *(["MB ours", "MB timm"] if told["memory"] else [])):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for result in record["results"]:
        for which, one in result["passes"].items():
            figures = [f"{one[who]['median']:.1f}" for who in Pair._fields]
            figures += [f"{one['ratio'][part]:.2f}" for part in ("median", "best")]
            if "memory" in result and which == "training":
                figures += [f"{result['memory'][who] / 1e6:.0f}" for who in Pair._fields]
            table.add_row(result["name"], which, *figures)
    for which, mean in record["summary"].items():
        table.add_row("geometric mean", which, "", "", f"{mean['median']:.2f}", f"{mean['best']:.2f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
