"""Contrast of single pictures."""

import numpy as np

from ..registry import TRANSFORMS


@TRANSFORMS.register_module()
class MinMaxNormalize:
    """Stretch a picture's grey levels to 0 .. 255: (x - min) / (max - min) * 255, all channels together; float32.

    What VM-UNet and MHS-VM (arXiv:2402.02491, arXiv:2406.05992) feed their networks with: they take a data set's mean
    and deviation off first, which this cancels. A picture of one level becomes 0.

    `results["img"]` is an array (H, W, C), as of mmcv's `LoadImageFromFile`.
    """

    def __call__(self, results: dict) -> dict:
        picture = results["img"].astype(np.float32)
        low, high = float(picture.min()), float(picture.max())
        results["img"] = (picture - low) * (255.0 / (high - low) if high > low else 0.0)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"
