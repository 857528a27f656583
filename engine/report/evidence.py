"""Evidence on disk: each process writes its part of an evaluation, a reader puts the parts of the last one together."""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ..predictions import name_of
from ..saving import write
from .collect import Collector
from .curves import ClassCurve, of_matches, of_scores
from .extremes import merged
from .matching import IGNORED, RIGHT, THRESHOLDS

FOLDER = "report"  # in the work directory
THRESHOLD_BITS = 1 << np.arange(len(THRESHOLDS))


@dataclass
class Evidence:
    """An evaluation: `kind` and `arrays` as a `Collector`'s; names and colours of the classes; `pictures` that counted
    of `total`; `iter` and `epoch` after which it was made; `parts` that are there of `world`; best and worst pictures,
    their paths below `folder` where they are not whole.
    """

    kind: str
    classes: list[str]
    palette: list | None
    arrays: dict[str, NDArray]
    extremes: dict[str, list[dict[str, Any]]]
    pictures: int
    total: int
    iter: int
    epoch: int
    parts: int
    world: int
    folder: str = ""


def save_part(work_dir: str | Path, collector: Collector, facts: dict[str, Any], rank: int) -> Path:
    """Write `report/evidence_rank<rank>.npz`, the whole file or none; `facts`: the other fields of `Evidence`."""
    described = facts | {"kind": collector.kind, "extremes": collector.extremes.record()}
    content = np.frombuffer(json.dumps(described).encode(), np.uint8)
    sink = io.BytesIO()
    np.savez(sink, facts=content, **collector.arrays())
    path = Path(work_dir) / FOLDER / f"evidence_rank{rank}.npz"
    write(path, sink.getvalue())
    return path


def read_evidence(work_dir: str | Path) -> Evidence | None:
    """The last evaluation's; None where none was kept.

    Raises:
        InputError: a file is damaged.
    """
    folder = Path(work_dir) / FOLDER
    first = folder / "evidence_rank0.npz"
    if not first.is_file():
        return None
    facts, arrays = _read(first)
    parts, records, pictures = [arrays], [facts["extremes"]], facts["pictures"]
    for rank in range(1, facts["world"]):
        path = folder / f"evidence_rank{rank}.npz"
        if not path.is_file():  # another machine's disk has it
            continue
        others, more = _read(path)
        if (others["iter"], others["world"], others["kind"]) != (facts["iter"], facts["world"], facts["kind"]):
            continue  # of an earlier evaluation
        parts.append(more)
        records.append(others["extremes"])
        pictures += others["pictures"]
    return Evidence(
        facts["kind"],
        facts["classes"],
        facts["palette"],
        _together(parts),
        merged(records),
        pictures,
        facts["total"],
        facts["iter"],
        facts["epoch"],
        len(parts),
        facts["world"],
        facts.get("folder", ""),
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, NDArray]]:
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        return json.loads(arrays.pop("facts").tobytes()), arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read ({error}); the next evaluation writes it anew") from error


def _together(parts: list[dict[str, NDArray]]) -> dict[str, NDArray]:
    summed = {"confusion", "objects"}
    return {
        name: sum(part[name] for part in parts) if name in summed else np.concatenate([part[name] for part in parts])
        for name in parts[0]
    }


def confusion_of(evidence: Evidence) -> tuple[NDArray[np.int64], list[str]] | None:
    """Counts by truth (row) and prediction (column), and the names of both; None for several labels a picture."""
    names = [str(name) for name in evidence.classes]
    if evidence.kind == "classes":
        gt, best = evidence.arrays["gt"].astype(np.int64), evidence.arrays["labels"][:, 0].astype(np.int64)
        count = max(len(names), int(max(gt.max(), best.max())) + 1)
        matrix = np.bincount(gt * count + best, minlength=count**2).reshape(count, count)
        return matrix, [name_of(names, k) for k in range(count)]
    if evidence.kind == "objects":
        return evidence.arrays["confusion"], [*names, "nothing"]
    return (evidence.arrays["confusion"], names) if evidence.kind == "regions" else None


def curves_of(evidence: Evidence) -> list[ClassCurve]:
    """A curve a class; none for regions, where each pixel has a class and no score is kept."""
    arrays, names = evidence.arrays, [str(name) for name in evidence.classes]
    if evidence.kind == "classes":
        return _of_classes(arrays, names)
    if evidence.kind == "labels":
        scores, truth = arrays["scores"], arrays["truth"]
        return [of_scores(name_of(names, k), scores[:, k], truth[:, k]) for k in range(truth.shape[1])]
    if evidence.kind == "objects":
        curves = []
        for k, name in enumerate(names):
            there = arrays["label"] == k
            results = np.zeros((len(THRESHOLDS), int(there.sum())), np.int8)
            results[(arrays["right"][there] & THRESHOLD_BITS[:, None]) > 0] = RIGHT
            results[(arrays["ignored"][there] & THRESHOLD_BITS[:, None]) > 0] = IGNORED
            curves.append(of_matches(name, arrays["score"][there], results, int(arrays["objects"][k])))
        return curves
    return []


def _of_classes(arrays: dict[str, NDArray], names: list[str]) -> list[ClassCurve]:
    """Each class against the rest; a picture of which a class was not kept scores 0 there."""
    gt, labels = arrays["gt"], arrays["labels"]
    count = max(len(names), int(max(labels.max(), gt.max())) + 1)
    occurs, said = np.bincount(gt, minlength=count), np.bincount(labels[:, 0], minlength=count)
    hits = np.bincount(gt[gt == labels[:, 0]], minlength=count)
    order = np.argsort(labels, axis=None, kind="stable")
    bounds = np.searchsorted(labels.flat[order], np.arange(count + 1))
    curves = []
    for k in range(count):
        places = order[bounds[k] : bounds[k + 1]]
        truth = gt[places // labels.shape[1]] == k
        # All others are two entries of score 0: those of the class, and those that are not.
        unseen = [occurs[k] - truth.sum(), len(gt) - len(places) - (occurs[k] - truth.sum())]
        curve = of_scores(
            name_of(names, k),
            np.append(arrays["scores"].flat[places], [0, 0]),
            np.append(truth, [True, False]),
            np.append(np.ones(len(places)), unseen),
        )
        curve.more = {
            "accuracy": hits[k] / occurs[k] if occurs[k] else float("nan"),
            "precision": hits[k] / said[k] if said[k] else float("nan"),
        }
        curves.append(curve)
    return curves
