"""Predictions on disk: written in pieces while a test runs, read back when it goes on after a kill."""

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from pycocotools import mask as coco_mask

from ..errors import InputError
from ..files import whole_file

FIELDS = ("bboxes", "scores", "labels", "mask_scores", "keypoints", "keypoint_scores")  # of instances, with masks


def write(path: Path, content: bytes) -> None:
    """The whole file or none, in a folder that is made; it need not outlive a failure of the power."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, durable=False) as file:
        file.write(content)


class SavedPredictions:
    """A folder of predictions: `pieces/*.json` while a test runs, label PNGs, at its end COCO's results or Parquet.

    Args:
        folder: made if it is not there.
        source: what the predictions are of: compared when a test goes on.
        resume: read what is there; else the folder must hold no predictions.
        root: the pictures' folder, below which label PNGs keep their names.

    Raises:
        InputError: the folder has predictions and `resume` is False; they are of another checkpoint or config.
    """

    def __init__(self, folder: str | Path, source: dict[str, Any], resume: bool = False, root: str = "") -> None:
        self.folder, self.root = Path(folder), root
        manifest = self.folder / "source.json"
        if manifest.is_file():
            if not resume:
                raise InputError(
                    f"{folder}: it has predictions; add --resume-predictions to go on, or name another folder"
                )
            there = json.loads(manifest.read_text(encoding="utf-8"))
            if changed := sorted(key for key in {*there, *source} if there.get(key) != source.get(key)):
                raise InputError(f"{folder}: its predictions are of another {', '.join(changed)}; name another folder")
        write(manifest, (json.dumps(source, indent=1) + "\n").encode())
        self.there: dict[str, Any] = {}
        if resume:
            for piece in sorted((self.folder / "pieces").glob("[!.]*.json")):
                self.there |= json.loads(piece.read_text(encoding="utf-8"))
        self.fresh: dict[str, Any] = {}

    def has(self, sample: BaseDataElement) -> bool:
        """Whether the prediction of that picture is there, in full."""
        record = self.there.get(key_of(sample))
        return record is not None and ("labels_png" not in record or (self.folder / record["labels_png"]).is_file())

    def add(self, sample: BaseDataElement) -> None:
        """Keep what a model said; a label PNG is written at once, all else by `flush`."""
        self.fresh[key_of(sample)] = self._record(sample)

    def flush(self, name: str) -> None:
        """Write what was added since as the piece `name`."""
        if self.fresh:
            write(self.folder / "pieces" / f"{name}.json", json.dumps(self.fresh).encode())
            self.fresh = {}

    def restore(self, sample: BaseDataElement) -> BaseDataElement:
        """Give the sample the prediction that was saved, to the last bit."""
        record = self.there[key_of(sample)]
        if "labels_png" in record:
            labels = cv2.imread(str(self.folder / record["labels_png"]), cv2.IMREAD_UNCHANGED)
            sample.set_data({"pred_sem_seg": PixelData(data=torch.from_numpy(labels.astype(np.int64))[None])})
        elif "pred_score" in record:
            score = torch.tensor(record["pred_score"], dtype=torch.float32)
            sample.set_prediction(score, record.get("threshold")).set_pred_label(record["pred_label"])
        else:
            found = InstanceData()
            for field in FIELDS:
                if field in record:
                    shape, values = record[field]
                    kind = torch.int64 if field == "labels" else torch.float32
                    setattr(found, field, torch.tensor(values, dtype=kind).reshape(shape))
            if "masks" in record:
                height, width = sample.ori_shape[:2]
                masks = np.zeros((0, height, width), bool)
                if record["masks"]:
                    masks = np.asarray(coco_mask.decode(record["masks"])).transpose(2, 0, 1).astype(bool)
                found.masks = torch.from_numpy(np.ascontiguousarray(masks))
            sample.pred_instances = found
        return sample

    def _record(self, sample: BaseDataElement) -> dict[str, Any]:
        if "pred_sem_seg" in sample:
            labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
            name = os.path.relpath(sample.img_path, self.root) if self.root else Path(sample.img_path).name
            if name.startswith(".."):
                name = Path(sample.img_path).name
            path = str(Path("labels") / Path(name).with_suffix(".png"))
            kind = np.uint8 if labels.max(initial=0) < 256 else np.uint16
            write(self.folder / path, cv2.imencode(".png", labels.astype(kind))[1].tobytes())
            return {"labels_png": path}
        if "pred_score" in sample:
            if importlib.util.find_spec("pyarrow") is None:  # told at the first batch, not at the end
                raise InputError("--save-predictions: classes are written as Parquet: pip install 'bestiary[parquet]'")
            record = {"img_path": sample.get("img_path"), "pred_label": int(sample.pred_label)}
            if "gt_label" in sample:
                record["gt_label"] = int(sample.gt_label)
            if "gt_score" in sample:
                record["gt_labels"] = torch.nonzero(sample.gt_score >= 0.5).flatten().tolist()
            if "pred_labels" in sample:
                record |= {"pred_labels": sample.pred_labels.tolist(), "threshold": sample.get("threshold")}
            return record | {"pred_score": sample.pred_score.float().cpu().tolist()}
        if "pred_instances" not in sample:
            raise InputError("--save-predictions: the model predicts neither objects, label maps nor classes")
        found = sample.pred_instances
        record: dict[str, Any] = {"img_id": sample.img_id}
        for field in FIELDS:
            if field in found:
                values = found[field].detach().cpu()
                record[field] = [list(values.shape), values.flatten().tolist()]
        if "masks" in found:
            masks = np.asarray(found.masks.cpu() if isinstance(found.masks, torch.Tensor) else found.masks, np.uint8)
            runs = coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0))) if len(masks) else []
            record["masks"] = [{"size": list(run["size"]), "counts": run["counts"].decode()} for run in runs]
        return record

    def finish(self, categories: Sequence[int] | None = None) -> list[Path]:
        """Write COCO's results or Parquet from all pieces; returns the files. Label PNGs are there already.

        Args:
            categories: COCO's number of each label; the labels themselves if None.
        """
        everything: dict[str, Any] = {}
        for piece in sorted((self.folder / "pieces").glob("[!.]*.json")):
            everything |= json.loads(piece.read_text(encoding="utf-8"))
        records = [everything[key] for key in sorted(everything)]
        if not records or "labels_png" in records[0]:
            return [self.folder / "labels"] if records else []
        return [self._parquet(records)] if "pred_score" in records[0] else self._coco(records, categories)

    def _coco(self, records: Sequence[dict[str, Any]], categories: Sequence[int] | None) -> list[Path]:
        results: dict[str, list[dict[str, Any]]] = {"bbox": []} | ({"segm": []} if "masks" in records[0] else {})
        for record in records:
            scores, labels = record["scores"][1], record["labels"][1]
            for i, label in enumerate(labels):
                x1, y1, x2, y2 = record["bboxes"][1][4 * i : 4 * i + 4]
                category = label if categories is None else categories[label]
                entry = {"image_id": record["img_id"], "category_id": category, "score": scores[i]}
                results["bbox"].append(entry | {"bbox": [x1, y1, x2 - x1, y2 - y1]})
                if "segm" in results:
                    score = record["mask_scores"][1][i] if "mask_scores" in record else scores[i]
                    results["segm"].append(entry | {"score": score, "segmentation": record["masks"][i]})
        paths = [self.folder / f"results.{kind}.json" for kind in results]
        for path, objects in zip(paths, results.values(), strict=True):
            write(path, json.dumps(objects).encode())
        return paths

    def _parquet(self, records: Sequence[dict[str, Any]]) -> Path:
        import pyarrow
        import pyarrow.parquet

        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(records)), sink)
        write(path := self.folder / "predictions.parquet", sink.getvalue().to_pybytes())
        return path


def key_of(sample: BaseDataElement) -> str:
    """What names a picture in a data set: its file, or its number where there is none."""
    path = sample.get("img_path")
    return str(path) if path is not None else f"image {sample.get('img_id')}"
