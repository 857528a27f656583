"""Pictures with label images, written in ADE20K's layout: images/SPLIT, annotations/SPLIT."""

import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def put_picture(source: str | os.PathLike, target: str | os.PathLike) -> None:
    """A second name for the picture's file, or a copy where the file system has no hard links."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def put_labels(labels: NDArray[np.uint8], target: str | os.PathLike) -> None:
    """Write class numbers (H, W) as PNG."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(labels).save(target)
