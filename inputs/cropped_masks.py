"""Masks of objects kept as the part of the picture that they cover: mmdet's `BitmapMasks`, a tenth of the bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import mmcv
import numpy as np
from mmdet.structures.bbox import HorizontalBoxes, get_box_type
from mmdet.structures.mask import BitmapMasks
from numpy.typing import NDArray
from pycocotools import mask as rle_masks

Mask = NDArray[np.uint8]


class CroppedMasks(BitmapMasks):
    """N masks of a picture; each a small array and its place, zero elsewhere.

    What `BitmapMasks` gives, this gives, number for number. Resizing by nearest neighbour, flipping, cropping, padding
    with zeros, choosing, areas and boxes work on the small arrays; all else on `masks`, (N, H, W), which is made when
    it is first asked for. Between processes only the small arrays travel.

    Args:
        crops: uint8 arrays (h_i, w_i).
        corners: (top, left) of each in the picture.
        height, width: of the picture.
    """

    def __init__(self, crops: Sequence[Mask], corners: Sequence[tuple[int, int]], height: int, width: int) -> None:
        self.crops, self.corners = list(crops), [(int(top), int(left)) for top, left in corners]
        self.height, self.width = int(height), int(width)
        self._dense: Mask | None = None

    @property
    def masks(self) -> Mask:
        """(N, H, W)."""
        if self._dense is None:
            self._dense = np.zeros((len(self.crops), self.height, self.width), np.uint8)
            for out, crop, (top, left) in zip(self._dense, self.crops, self.corners, strict=True):
                out[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
        return self._dense

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | dict(_dense=None)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: Any) -> CroppedMasks:
        chosen = np.arange(len(self))[index].reshape(-1)
        return self._with([self.crops[i] for i in chosen], [self.corners[i] for i in chosen])

    def _with(self, crops: list[Mask], corners: list[tuple[int, int]]) -> CroppedMasks:
        return CroppedMasks(crops, corners, self.height, self.width)

    def rescale(self, scale: float | tuple[int, int], interpolation: str = "nearest") -> BitmapMasks:
        """Enlarged or shrunken by a factor, or to fit into a size; see `BitmapMasks`."""
        width, height = mmcv.rescale_size((self.width, self.height), scale)
        return self.resize((height, width), interpolation)

    def resize(self, out_shape: tuple[int, int], interpolation: str = "nearest") -> BitmapMasks:
        """Of another size (H, W)."""
        if interpolation != "nearest" or mmcv.image.io.imread_backend != "cv2":
            return super().resize(out_shape, interpolation)
        height, width = int(out_shape[0]), int(out_shape[1])
        if not self.crops:
            return CroppedMasks([], [], height, width)
        rows, columns = _sources(self.height, height), _sources(self.width, width)
        crops, corners = [], []
        for crop, (top, left) in zip(self.crops, self.corners, strict=True):
            y0, y1 = np.searchsorted(rows, (top, top + crop.shape[0]))
            x0, x1 = np.searchsorted(columns, (left, left + crop.shape[1]))
            crops.append(crop.take(columns[x0:x1] - left, axis=1).take(rows[y0:y1] - top, axis=0))
            corners.append((y0, x0))
        return CroppedMasks(crops, corners, height, width)

    def flip(self, flip_direction: str = "horizontal") -> CroppedMasks:
        """Mirrored: 'horizontal', 'vertical' or 'diagonal', which is both."""
        assert flip_direction in ("horizontal", "vertical", "diagonal")
        turn_y, turn_x = flip_direction != "horizontal", flip_direction != "vertical"
        crops, corners = [], []
        for crop, (top, left) in zip(self.crops, self.corners, strict=True):
            crops.append(crop[:: -1 if turn_y else 1, :: -1 if turn_x else 1])
            bottom, right = self.height - top - crop.shape[0], self.width - left - crop.shape[1]
            corners.append((bottom if turn_y else top, right if turn_x else left))
        return self._with(crops, corners)

    def pad(self, out_shape: tuple[int, int], pad_val: int = 0) -> BitmapMasks:
        """With more rows below and columns to the right."""
        if pad_val or out_shape[0] < self.height or out_shape[1] < self.width:
            return super().pad(out_shape, pad_val)
        return CroppedMasks(self.crops, self.corners, *out_shape)

    def crop(self, bbox: NDArray) -> CroppedMasks:
        """The part of the picture within (left, top, right, bottom)."""
        assert isinstance(bbox, np.ndarray) and bbox.ndim == 1
        x0, x1 = (int(value) for value in np.clip(bbox[0::2], 0, self.width))
        y0, y1 = (int(value) for value in np.clip(bbox[1::2], 0, self.height))
        height, width = max(y1 - y0, 1), max(x1 - x0, 1)  # as mmdet has it
        crops, corners = [], []
        for crop, (top, left) in zip(self.crops, self.corners, strict=True):
            first_y, first_x = max(y0 - top, 0), max(x0 - left, 0)
            part = crop[first_y : max(y0 + height - top, 0), first_x : max(x0 + width - left, 0)]
            crops.append(part)
            corners.append((max(top - y0, 0), max(left - x0, 0)) if part.size else (0, 0))
        return CroppedMasks([part if part.size else part[:0, :0] for part in crops], corners, height, width)

    @property
    def areas(self) -> NDArray:
        """Pixels of each, (N,)."""
        # The type of a sum of uint8, as of the dense masks.
        return np.array([crop.sum() for crop in self.crops], dtype=np.uint64)

    def get_bboxes(self, dst_type: str | type = "hbox") -> Any:
        """The box around each mask; zeros for an empty one."""
        kind = get_box_type(dst_type)[1] if isinstance(dst_type, str) else dst_type
        if not issubclass(kind, HorizontalBoxes):
            return super().get_bboxes(dst_type)
        boxes = np.zeros((len(self), 4), np.float32)
        for box, crop, (top, left) in zip(boxes, self.crops, self.corners, strict=True):
            xs, ys = np.flatnonzero(crop.any(0)), np.flatnonzero(crop.any(1))
            if len(xs) and len(ys):
                box[:] = left + xs[0], top + ys[0], left + xs[-1] + 1, top + ys[-1] + 1
        return kind(boxes)


def _sources(size: int, new: int) -> NDArray[np.intp]:
    """Which of `size` pixels each of `new` ones takes in OpenCV's nearest neighbour, found by asking it."""
    line = np.arange(size, dtype=np.float32)[None]
    return cv2.resize(line, (new, 1), interpolation=cv2.INTER_NEAREST)[0].astype(np.intp)


def rasterise(mask: list | dict, height: int, width: int) -> tuple[Mask, tuple[int, int]]:
    """A mask of COCO's annotations, outlines or run lengths, as a small array and its (top, left)."""
    # Outlines are drawn on the whole picture: on a part of it a pixel would be rounded otherwise now and then.
    runs = rle_masks.merge(rle_masks.frPyObjects(mask, height, width)) if isinstance(mask, list) else mask
    counts = runs["counts"] if isinstance(runs["counts"], list) else run_lengths(runs["counts"])
    ends = np.cumsum(counts)
    # Runs of 0 and of 1 in turns, column after column; runs of 1: from the first pixel to the last.
    first, last = ends[: len(ends) // 2 * 2 : 2], ends[1::2] - 1
    some = last >= first
    if not some.any():
        return np.zeros((0, 0), np.uint8), (0, 0)
    (x0, y0), (x1, y1) = np.divmod(first[some], height), np.divmod(last[some], height)
    left, top, bottom = int(x0[0]), int(y0.min()), int(y1.max()) + 1
    if (x0 != x1).any():  # a run that goes on in the next column covers its top
        top, bottom = 0, height
    rows, columns = bottom - top, int(x1[-1]) + 1 - left
    steps = np.zeros(columns * rows + 1, np.int8)
    np.add.at(steps, (x0 - left) * rows + y0 - top, 1)
    np.add.at(steps, (x1 - left) * rows + y1 - top + 1, -1)
    filled = np.cumsum(steps[:-1], dtype=np.int8).view(np.uint8)
    return np.ascontiguousarray(filled.reshape(columns, rows).T), (top, left)


def run_lengths(text: bytes | str) -> NDArray[np.int64]:
    """Run lengths out of COCO's string for them.

    A number is five bits a character, lowest first, 32 added to all but its last, 48 to each; from the fourth number on
    each is less the one before the last.
    """
    codes = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    if not len(codes):
        return np.zeros(0, np.int64)
    is_last = codes < 32
    starts = np.flatnonzero(np.concatenate([[True], is_last[:-1]]))
    lengths = np.diff(np.append(starts, len(codes)))
    place = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << 5 * place, starts)
    negative = codes[is_last] & 16 != 0
    numbers[negative] -= 1 << 5 * lengths[negative]
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
