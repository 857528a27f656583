"""mmdet's two slowest steps, made quick: the same numbers, a sixth of the time.

Not imported by the room, which works without mmdet: a config says
`custom_imports = dict(imports=["bestiary", "bestiary.inputs.detection_transforms"])`.
"""

from typing import Any

import cv2
import numpy as np
import torch
from mmdet.datasets.transforms import LoadAnnotations as PlainLoadAnnotations
from mmdet.datasets.transforms import PackDetInputs as PlainPackDetInputs
from numpy.typing import NDArray
from torch import Tensor

from ..registry import TRANSFORMS
from .cropped_masks import CroppedMasks, rasterise


@TRANSFORMS.register_module()
class LoadAnnotations(PlainLoadAnnotations):
    """mmdet's `LoadAnnotations` whose masks are `CroppedMasks`; its arguments and results."""

    def _load_masks(self, results: dict) -> None:
        if not self.poly2mask:
            return super()._load_masks(results)
        height, width = results["ori_shape"]
        drawn = [rasterise(mask, height, width) for mask in self._process_masks(results)]
        results["gt_masks"] = CroppedMasks([mask for mask, _ in drawn], [at for _, at in drawn], height, width)
        return None


@TRANSFORMS.register_module()
class PackDetInputs(PlainPackDetInputs):
    """mmdet's `PackDetInputs` whose pictures are made planes by OpenCV; its arguments and results."""

    def transform(self, results: dict) -> dict[str, Any]:
        rest = {key: value for key, value in results.items() if key != "img"}
        packed = super().transform(rest)
        return dict(inputs=planes(results["img"]), **packed) if "img" in results else packed


def planes(picture: NDArray) -> Tensor:
    """(H, W, C) or (H, W) -> (C, H, W), a copy; the picture may be mirrored by negative strides."""
    if picture.ndim == 2:
        picture = picture[..., None]
    # NumPy's flips are views, read a byte at a time: the picture under the view is split, and its planes are turned
    # where they lie. What costs most here is memory that is touched for the first time.
    up, left = (stride < 0 for stride in picture.strides[:2])
    straight = np.ascontiguousarray(picture[:: -1 if up else 1, :: -1 if left else 1])
    out = np.empty((straight.shape[2], *straight.shape[:2]), straight.dtype)
    cv2.split(straight, list(out))
    for plane in out if up or left else ():
        cv2.flip(plane, {(True, False): 0, (False, True): 1, (True, True): -1}[up, left], dst=plane)
    return torch.from_numpy(out)
