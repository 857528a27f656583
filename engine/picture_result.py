"""What a model says about a picture, in the forms that a person or another library takes."""

import functools
import importlib.util
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from ..errors import InputError
from .drawing import Colour, Picture, draw, read_picture
from .predictions import TASKS, Classification, Detection, Prediction, Segmentation, name_of
from .predictor import Given


class Result:
    """A picture and what a model says about it.

    Attributes:
        name: the file, or what else was given.
        task: 'detection', 'segmentation' or 'classification'.
        prediction: a `Detection`, `Segmentation` or `Classification`.
        classes: names, by class number.

    Arrays, None where the task has none:
        boxes: (N, 4) float32, x1, y1, x2, y2 in pixels of the picture.
        labels: (N,) int64, class numbers; best first. Of a segmentation (H, W).
        scores: (N,) float32.
        masks: (N, H, W) bool, of a detector that gives masks.
    """

    def __init__(self, given: Given, prediction: Prediction, classes: list[str], colours: list[Colour]) -> None:
        self.name, self.prediction, self.classes, self.colours = given.name, prediction, classes, colours
        self.task = TASKS[type(prediction)]
        self._picture = given.picture

    @functools.cached_property
    def picture(self) -> Picture:
        """(H, W, 3) RGB, turned as its EXIF data say.

        Raises:
            InputError: the file is gone, or cannot be decoded.
        """
        return read_picture(self.name) if self._picture is None else self._picture

    @property
    def boxes(self) -> NDArray[np.float32] | None:
        return self.prediction.boxes if isinstance(self.prediction, Detection) else None

    @property
    def labels(self) -> NDArray[np.int64]:
        return self.prediction.labels

    @property
    def scores(self) -> NDArray[np.float32] | None:
        return None if isinstance(self.prediction, Segmentation) else self.prediction.scores

    @property
    def masks(self) -> NDArray[np.bool_] | None:
        return self.prediction.masks if isinstance(self.prediction, Detection) else None

    @property
    def names(self) -> list[str]:
        """Of the classes of `labels`, one each; of a segmentation those that occur, the largest first."""
        if not isinstance(self.prediction, Segmentation):
            return [name_of(self.classes, label) for label in self.labels.tolist()]
        return [name_of(self.classes, label) for label in self._regions()]

    def _regions(self) -> list[int]:
        found, counts = np.unique(self.labels, return_counts=True)
        order = found[np.argsort(-counts, kind="stable")].tolist()
        return [label for label in order if label != self.prediction.left_out]

    def __repr__(self) -> str:
        return f"Result({self.name!r}, {self.task}: {self.summary()})"

    def summary(self, most: int = 5) -> str:
        """`2 cat, 1 dog`, `cat 0.91, dog 0.05`, or `sky 61.0%, tree 20.5%`."""
        if isinstance(self.prediction, Detection):
            names = self.names
            counts = {name: names.count(name) for name in dict.fromkeys(names)}
            parts = [f"{count} {name}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1])]
        elif isinstance(self.prediction, Classification):
            parts = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores, strict=True)]
        else:
            shares = [(self.labels == label).mean() for label in self._regions()]
            parts = [f"{name} {share:.1%}" for name, share in zip(self.names, shares, strict=True)]
        return ", ".join(parts[:most]) + (", ..." if len(parts) > most else "") if parts else "nothing"

    def like(self, prediction: Prediction) -> "Result":
        """Another prediction for the same picture."""
        other = Result(Given(self.name, self._picture), prediction, self.classes, self.colours)
        if "picture" in vars(self):
            other.picture = self.picture
        return other

    def above(self, score: float) -> "Result":
        """Of a detection the objects of that score at least; all of another."""
        return self.like(self.prediction.above(score)) if isinstance(self.prediction, Detection) else self

    def draw(self, long_side: int | None = None, lines: int | None = None) -> Picture:
        """The picture with the prediction on it, (H, W, 3) RGB; see `drawing.draw`."""
        return draw(self.picture, self.prediction, self.classes, self.colours, long_side, lines)

    def show(self) -> None:
        """Open the drawn picture in the machine's viewer; a notebook shows a result by itself.

        Raises:
            InputError: there is no viewer.
        """
        from PIL import ImageShow

        if not ImageShow.show(Image.fromarray(self.draw()), title=self.name):
            raise InputError("show: no viewer of pictures on this machine; .save('drawn.png') writes a file")

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(self.draw()).save(buffer, "PNG")
        return buffer.getvalue()

    def save(self, path: str | Path) -> Path:
        """Write the drawn picture, in the form that the name's ending says; returns the path.

        Raises:
            InputError: it cannot be written there, or not in that form.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(self.draw()).save(path)
        except (OSError, ValueError) as error:  # PIL raises ValueError for an ending that it does not know
            raise InputError(f"{path}: the picture cannot be written ({error}); give another path, as x.png") from error
        return path

    def to_dict(self) -> dict[str, Any]:
        """For JSON: `file`, `height`, `width`, and `detections`, `fractions` or `top`, as `bestiary infer` writes."""
        height, width = self.picture.shape[:2]
        return {"file": self.name, "height": height, "width": width} | self.prediction.record(self.classes)

    def to_coco(self, image_id: int = 1, category_ids: list[int] | None = None) -> list[dict[str, Any]]:
        """COCO's results, one an object, scores and boxes not rounded.

        Args:
            image_id: of this picture in the annotation file.
            category_ids: by class number; by default COCO's own where the classes are COCO's, else from 1 on.

        Raises:
            InputError: it is not a detection.
        """
        if not isinstance(self.prediction, Detection):
            raise InputError(f"to_coco: COCO's results are of objects; this is a {self.task}: to_dict() has all of it")
        ids = coco_ids(self.classes) if category_ids is None else category_ids
        objects = []
        for i, (x1, y1, x2, y2) in enumerate(self.boxes.tolist()):
            label = int(self.labels[i])
            entry: dict[str, Any] = {
                "image_id": image_id,
                "category_id": ids[label] if label < len(ids) else label + 1,
                "score": float(self.scores[i]),
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            if self.masks is not None:
                rle = coco_mask.encode(np.asfortranarray(self.masks[i], dtype=np.uint8))
                entry["segmentation"] = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
            objects.append(entry)
        return objects

    def to_supervision(self) -> Any:
        """`supervision.Detections` with `class_name` in its data; of a segmentation a mask a class that occurs;
        of a classification `supervision.Classifications`.

        Raises:
            InputError: the package supervision is not installed.
        """
        if importlib.util.find_spec("supervision") is None:
            raise InputError("to_supervision: the package supervision is not installed: pip install supervision")
        import supervision as sv

        if isinstance(self.prediction, Classification):
            return sv.Classifications(class_id=self.labels, confidence=self.scores)
        if isinstance(self.prediction, Detection):
            data = {"class_name": np.array(self.names, dtype=str)}
            return sv.Detections(self.boxes, self.masks, self.scores, class_id=self.labels, data=data)
        labels = self._regions()
        if not labels:
            return sv.Detections.empty()
        masks = np.stack([self.labels == label for label in labels])
        data = {"class_name": np.array(self.names, dtype=str)}
        return sv.Detections(sv.mask_to_xyxy(masks).astype(np.float32), masks, class_id=np.array(labels), data=data)


def coco_ids(classes: list[str]) -> list[int]:
    """Category numbers: COCO's, which have gaps, where the classes are COCO's 80; else 1, 2, ..."""
    from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

    names = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]  # by number, "N/A" in the gaps
    numbers = {name: number for number, name in enumerate(names) if name not in ("N/A", "__background__")}
    if list(numbers) == classes:
        return list(numbers.values())
    return list(range(1, len(classes) + 1))
