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
    of `total`; `iter` and `epoch` after which it was made; `parts` that are there of `world`; best and worst pictures.
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


def save_part(work_dir: str | Path, collector: Collector, facts: dict[str, Any], rank: int) -> Path:
    """Write `report/evidence_rank<rank>.npz`, the whole file or none; `facts`: the other fields of `Evidence`."""
    described = facts | {"kind": collector.kind, "extremes": collector.extremes.record()}
    content = np.frombuffer(json.dumps(described).encode(), np.uint8)
    sink = io.BytesIO()
    np.savez_compressed(sink, facts=content, **collector.arrays())
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
        count = max(len(names), int(arrays["labels"].max()) + 1)
        return [_of_class(arrays, k, name_of(names, k)) for k in range(count)]
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


def _of_class(arrays: dict[str, NDArray], k: int, name: str) -> ClassCurve:
    """One class against the rest; classes that were not kept of a picture score 0 there."""
    scores = np.where(arrays["labels"] == k, arrays["scores"], 0).max(axis=1)
    curve = of_scores(name, scores, arrays["gt"] == k)
    found = arrays["labels"][:, 0] == k
    right = int((found & (arrays["gt"] == k)).sum())
    curve.more = {
        "accuracy": right / curve.occurs if curve.occurs else float("nan"),
        "precision": right / int(found.sum()) if found.any() else float("nan"),
    }
    return curve
