"""Every metric on made-up predictions, in as many processes as torchrun started: FILE COUNT, written by the first."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from mmengine.dist import get_rank, init_dist

from bestiary.engine.metrics import (
    CalibrationError,
    ClassAccuracy,
    CocoMetric,
    RealAccuracy,
    StreamingIoU,
    TopkAccuracy,
)
from bestiary.tools.bench_evaluation import synthetic


def samples(count):
    """(`count` samples with all fields, annotations): the same in each process."""
    truth, made = synthetic(images=count, instances=5 * count, detections=20, seed=7)
    rng = np.random.default_rng(7)
    for number, sample in enumerate(made):
        label = rng.integers(0, 5, (24, 31))
        predicted = np.where(rng.random(label.shape) < 0.6, label, rng.integers(0, 5, label.shape))
        score = torch.from_numpy(rng.dirichlet(np.ones(80)))
        right = rng.random() < 0.6
        sample |= dict(
            img_path=f"{number}.jpg",
            pred_sem_seg={"data": torch.from_numpy(predicted)[None]},
            gt_sem_seg={"data": torch.from_numpy(label)[None]},
            pred_score=score,
            gt_label=torch.tensor([int(score.argmax()) if right else int(rng.integers(80))]),
        )
    return made, truth


def metrics(folder, truth, count):
    """One of each kind."""
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "real.json").write_text(json.dumps({f"{number}.jpg": [number] for number in range(count)}))
    made = [
        CocoMetric(str(folder / "truth.json"), ["bbox", "segm"]),
        StreamingIoU(boundary=True, prefix="segmentation"),
        TopkAccuracy(),
        ClassAccuracy(),
        CalibrationError(),
        RealAccuracy(folder / "real.json"),
    ]
    for metric in made:
        metric.dataset_meta = {"classes": [f"class{number}" for number in range(80)]}
    return made


def evaluated(folder, count, batch=2):
    """Scores by name, in batches that mmengine's sampler deals out."""
    from mmengine.dataset import DefaultSampler

    made, truth = samples(count)
    mine = list(DefaultSampler(made, shuffle=False))
    scores = {}
    for metric in metrics(folder, truth, count):
        for at in range(0, len(mine), batch):
            metric.process(None, [made[index] for index in mine[at : at + batch]])
        scores |= metric.evaluate(count)
    return scores


if __name__ == "__main__":
    torch.set_num_threads(1)
    init_dist("pytorch", backend="gloo")
    out, count = Path(sys.argv[1]), int(sys.argv[2])
    own = out.parent / f"rank{get_rank()}"
    own.mkdir()
    found = evaluated(own, count)
    (out.parent / f"{out.stem}{get_rank()}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
