"""Time the data pipelines of our detection configs against mmdet's plain ones, on the same pictures and random numbers.

The two take turns, picture by picture, in one process and thread, as in a worker of a data loader. Every picture, box
and mask of the two is compared. Prints a table and, with --out, writes JSON.
"""

import argparse
import copy
import json
import pickle
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import TRANSFORMS
from mmdet.utils import register_all_modules
from mmengine.config import Config
from rich.table import Table

from bestiary.engine.configs import SHIPPED
from bestiary.engine.steps import tracked
from bestiary.errors import InputError
from bestiary.inputs import detection_transforms  # noqa: F401  (registers our steps)
from bestiary.tools import bench_frame, machine
from bestiary.tools.bench_evaluation import CLASSES, HEIGHT, WIDTH, synthetic
from bestiary.tools.parsers import command_parser

PIPELINES = ("coco_instance", "coco_multiscale", "coco_896", "coco_detection")  # of configs/_base_/datasets


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print, write; returns the exit status: 1 if results differ, or for bad input."""
    parser = command_parser("benchmark pipeline", __doc__)
    parser.add_argument("--images", type=int, default=64, help="JPEGs of 640 x 480, made for it (64)")
    parser.add_argument("--objects", type=int, default=7, help="a picture, on average, as in COCO (7)")
    parser.add_argument("--rounds", type=int, default=5, help="times through all pictures (5)")
    names = ", ".join(PIPELINES)
    parser.add_argument(
        "--pipelines", nargs="+", choices=PIPELINES, default=list(PIPELINES), metavar="NAME", help=f"of {names} (all)"
    )
    parser.add_argument("--out", metavar="FILE", help="write the record as JSON")
    args = parser.parse_args(argv)
    return bench_frame.guarded(lambda: measure(args))


def measure(args: argparse.Namespace) -> int:
    """All pipelines, one after the other."""
    if min(args.images, args.rounds) < 1 or args.objects < 0:
        raise InputError("--images and --rounds want at least 1, --objects at least 0")
    bench_frame.need_writable("--out", args.out)
    register_all_modules()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        samples = make_pictures(Path(folder), args.images, args.objects)
        results = {name: compare(name, samples, args.rounds) for name in tracked(args.pipelines, "time", "pipelines")}
    table = Table("pipeline", "mmdet's, pictures/s", "ours", "ratio", "kB between processes, mmdet's", "ours")
    for name, found in results.items():
        rates = f"{1 / found['plain']:.0f}", f"{1 / found['ours']:.0f}", f"{found['ratio']:.2f}"
        table.add_row(name, *rates, f"{found['plain_bytes'] / 1e3:.0f}", f"{found['ours_bytes'] / 1e3:.0f}")
    bench_frame.console().print(table)
    bench_frame.write_record(args.out, machine.record("bench_pipeline", args, torch.device("cpu"), results=results))
    return 0


def make_pictures(folder: Path, images: int, objects: int, seed: int = 0) -> list[dict[str, Any]]:
    """JPEGs with the grain of photographs, and their annotations as mmdet's data set hands them to a pipeline."""
    truth, _ = synthetic(images, images * objects, 0, seed)
    rng = np.random.default_rng(seed)
    for entry in truth["images"]:
        entry["file_name"] = f"{entry['id']}.jpg"
        coarse = rng.integers(256, size=(HEIGHT // 16, WIDTH // 16, 3), dtype=np.uint8)
        smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        picture = (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / entry["file_name"]), picture, [cv2.IMWRITE_JPEG_QUALITY, 90])
    (folder / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    classes = tuple(f"class{number}" for number in range(CLASSES))
    places = dict(ann_file=str(folder / "truth.json"), data_prefix=dict(img=str(folder)))
    data = CocoDataset(**places, metainfo=dict(classes=classes), pipeline=[])
    return [data.get_data_info(index) for index in range(len(data))]


def compare(name: str, samples: list[dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Seconds a picture, medians over the pictures and rounds of both pipelines, and bytes between processes.

    Raises:
        InputError: the two give different pictures, boxes, labels or masks.
    """
    steps = Config.fromfile(SHIPPED / "_base_" / "datasets" / f"{name}.py").train_pipeline
    ours = [TRANSFORMS.build(step) for step in steps]
    plain = [TRANSFORMS.build(step | dict(type=step.type.removeprefix("bestiary."))) for step in steps]
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    sizes: dict[str, list[int]] = {"plain": [], "ours": []}
    for turn in range(-1, rounds):  # the first, uncounted, reads the files into the system's memory
        for index, sample in enumerate(samples):
            found = {}
            order = (("plain", plain), ("ours", ours))
            for kind, transforms in order if (turn + index) % 2 else order[::-1]:
                results = copy.deepcopy(sample)
                random.seed((turn + 1) * len(samples) + index)
                np.random.seed((turn + 1) * len(samples) + index)
                began = time.perf_counter()
                for transform in transforms:
                    results = transform(results)
                    if results is None:
                        break
                if turn >= 0:
                    seconds[kind].append(time.perf_counter() - began)
                found[kind] = results
            check_same(found["plain"], found["ours"], f"{name}, {sample['img_path']}")
            if turn == 0 and found["ours"] is not None:
                for kind, results in found.items():
                    kept = copy.copy(results["data_samples"])
                    sizes[kind].append(len(pickle.dumps(kept)) + results["inputs"].nbytes)
    # A look at the masks as the check takes makes them whole, which stays with the sample and is not sent.
    found = {kind: statistics.median(times) for kind, times in seconds.items()}
    ratios = [p / o for p, o in zip(seconds["plain"], seconds["ours"], strict=True)]
    return found | {
        "ratio": statistics.median(ratios),
        "plain_mean": statistics.fmean(seconds["plain"]),
        "ours_mean": statistics.fmean(seconds["ours"]),
        "plain_bytes": statistics.fmean(sizes["plain"]) if sizes["plain"] else 0,
        "ours_bytes": statistics.fmean(sizes["ours"]) if sizes["ours"] else 0,
    }


def check_same(plain: dict | None, ours: dict | None, where: str) -> None:
    """Raises InputError: what two pipelines gave differs."""
    if plain is None or ours is None:
        if plain is not ours:
            raise InputError(f"{where}: only one of the pipelines leaves the picture out")
        return
    same = torch.equal(plain["inputs"], ours["inputs"])
    for part in ("gt_instances", "ignored_instances"):
        a, b = getattr(plain["data_samples"], part), getattr(ours["data_samples"], part)
        same &= torch.equal(a.bboxes.tensor, b.bboxes.tensor) and torch.equal(a.labels, b.labels)
        same &= "masks" not in a or np.array_equal(a.masks.masks, b.masks.masks)
    if not same:
        raise InputError(f"{where}: the two pipelines give different pictures, boxes, labels or masks")


if __name__ == "__main__":
    sys.exit(main())
