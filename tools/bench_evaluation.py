"""Time COCO's evaluation by faster-coco-eval and by pycocotools on a synthetic set, and compare their numbers.

Each evaluates the same boxes and masks in a process of its own, one after the other. Prints a table and, with --out,
writes JSON.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from rich.table import Table

from bestiary.engine.metrics.coco import BACKENDS, CocoMetric
from bestiary.engine.steps import tracked
from bestiary.errors import InputError
from bestiary.tools import bench_frame, machine
from bestiary.tools.growth import Growth
from bestiary.tools.parsers import command_parser

HEIGHT, WIDTH, CLASSES = 480, 640, 80
TOLERANCE = 1e-6


def main(argv: list[str] | None = None) -> int:
    """Parse, measure, print, write; returns the exit status: 1 if the backends disagree, or for bad input."""
    parser = command_parser("benchmark evaluation", __doc__)
    add = parser.add_argument
    add("--images", type=int, default=5000)
    add("--instances", type=int, default=36000, help="objects in all pictures together (36000)")
    add("--detections", type=int, default=100, help="of each picture (100)")
    add("--out", metavar="FILE", help="write the record as JSON")
    add("--one", nargs=2, metavar=("BACKEND", "FOLDER"), help=argparse.SUPPRESS)  # in a process of its own
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(evaluate(args.one[0], Path(args.one[1]))))
        return 0
    return bench_frame.guarded(lambda: compare(args))


def compare(args: argparse.Namespace) -> int:
    """Both backends on one set."""
    if min(args.images, args.instances) < 1 or args.detections < 0:
        raise InputError("--images and --instances want at least 1, --detections at least 0")
    bench_frame.need_writable("--out", args.out)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        truth, samples = synthetic(args.images, args.instances, args.detections)
        (Path(folder) / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
        with (Path(folder) / "samples.pkl").open("wb") as file:
            pickle.dump(samples, file)
        print(f"made {args.images} pictures in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        del truth, samples
        results = {backend: alone(backend, folder) for backend in tracked(BACKENDS, "score", "backends")}
    ours, theirs = (results[backend]["scores"] for backend in ("faster", "pycocotools"))
    differ = max(abs(ours[name] - theirs[name]) for name in theirs)
    speedup = results["pycocotools"]["seconds"] / results["faster"]["seconds"]
    table = Table("backend", "seconds", "MB added at most", "bbox mAP", "segm mAP")
    for backend, found in results.items():
        scores = (f"{found['scores'][f'coco/{kind}_mAP']:.6f}" for kind in ("bbox", "segm"))
        table.add_row(backend, f"{found['seconds']:.2f}", f"{found['bytes'] / 1e6:.0f}", *scores)
    console = bench_frame.console()
    console.print(table)
    console.print(f"{speedup:.1f} times as fast; {len(theirs)} numbers differ by at most {differ:.1e}", highlight=False)
    measured = dict(speedup=speedup, differ=differ, results=results)
    bench_frame.write_record(args.out, machine.record("bench_evaluation", args, torch.device("cpu"), **measured))
    if ours.keys() != theirs.keys() or not differ <= TOLERANCE:
        print(f"error: the backends differ by {differ}", file=sys.stderr)
        return 1
    return 0


def alone(backend: str, folder: str) -> dict[str, Any]:
    """`evaluate` in a fresh process. Raises InputError: that process failed."""
    command = [sys.executable, "-m", "bestiary.tools.bench_evaluation", "--one", backend, folder]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        raise InputError(f"{backend}: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def evaluate(backend: str, folder: Path) -> dict[str, Any]:
    """Seconds of all that comes after the last picture, memory that it adds, and the numbers."""
    with (folder / "samples.pkl").open("rb") as file:
        samples = pickle.load(file)  # written by this tool a moment ago
    metric = CocoMetric(str(folder / "truth.json"), ["bbox", "segm"], backend)
    metric.dataset_meta = {"classes": [f"class{number}" for number in range(CLASSES)]}
    for sample in samples:
        metric.process(None, [sample])
    size = len(samples)
    del samples
    with Growth(torch.device("cpu")) as growth:
        began = time.perf_counter()
        scores = metric.evaluate(size)
        seconds = time.perf_counter() - began
    return {"seconds": seconds, "bytes": growth.bytes, "scores": scores}


def synthetic(
    images: int, instances: int, detections: int, seed: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """COCO's annotations, and the samples of a detector that is often right.

    Objects are twelve-cornered, of all three sizes, one in 50 a crowd; `detections` a picture, 0.7 of them near an
    object, with masks as run lengths.
    """
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": 10 * number + 1, "height": HEIGHT, "width": WIDTH} for number in range(images)],
        "categories": [{"id": 2 * number + 1, "name": f"class{number}"} for number in range(CLASSES)],
        "annotations": [],
    }
    owners = np.sort(rng.integers(images, size=instances))
    samples = []
    for number, image in enumerate(truth["images"]):
        count = int((owners == number).sum())
        # Middle x, y and two radii; few classes a picture, as in photographs.
        shapes = _shapes(rng, count)
        labels = rng.choice(rng.integers(CLASSES, size=4), size=count)
        polygons, boxes = _polygons(rng, shapes)
        for label, polygon, box, run in zip(labels, polygons, boxes, _runs(polygons), strict=True):
            crowd = int(rng.random() < 0.02)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": 2 * int(label) + 1,
                    "bbox": [float(v) for v in (box[0], box[1], box[2] - box[0], box[3] - box[1])],
                    "area": float(coco_mask.area(run)),
                    "iscrowd": crowd,
                    "segmentation": {"size": run["size"], "counts": run["counts"].decode()} if crowd else [polygon],
                }
            )
        near = rng.random(detections) < 0.7 if count else np.zeros(detections, bool)
        which = rng.integers(max(count, 1), size=detections)
        guessed = _shapes(rng, detections)
        guessed[near] = shapes[which[near]] * np.exp(rng.normal(0, 0.08, (int(near.sum()), 4)))
        classes = rng.integers(CLASSES, size=detections)
        right = near & (rng.random(detections) < 0.6)
        classes[right] = labels[which[right]]
        polygons, boxes = _polygons(rng, guessed)
        scores = rng.random(detections) * np.where(right, 1.0, 0.7)
        found = {
            "bboxes": torch.from_numpy(boxes.astype(np.float32)),
            "scores": torch.from_numpy(scores.astype(np.float32)),
            "labels": torch.from_numpy(classes),
            "masks": _runs(polygons),
        }
        samples.append({"img_id": image["id"], "ori_shape": (HEIGHT, WIDTH), "pred_instances": found})
    return truth, samples


def _shapes(rng: np.random.Generator, count: int) -> np.ndarray:
    radii = np.exp(rng.uniform(np.log(6), np.log(150), size=(count, 1))) * rng.uniform(0.7, 1.3, size=(count, 2))
    return np.concatenate([rng.uniform((40, 40), (WIDTH - 40, HEIGHT - 40), size=(count, 2)), radii], axis=1)


def _polygons(rng: np.random.Generator, shapes: np.ndarray) -> tuple[list[list[float]], np.ndarray]:
    """Corners x1, y1, x2, ... of each shape, and the boxes around them (N, 4)."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radii = shapes[:, None, 2:] * rng.uniform(0.9, 1.1, size=(len(shapes), 12, 1))
    corners = shapes[:, None, :2] + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    corners = corners.clip(0, (WIDTH, HEIGHT))
    boxes = np.concatenate([corners.min(1), corners.max(1)], axis=1)
    return corners.reshape(len(shapes), 24).round(2).tolist(), boxes


def _runs(polygons: list[list[float]]) -> list[dict[str, Any]]:
    return [coco_mask.merge([run]) for run in coco_mask.frPyObjects(polygons, HEIGHT, WIDTH)] if polygons else []


if __name__ == "__main__":
    sys.exit(main())
