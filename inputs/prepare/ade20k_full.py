"""The full ADE20K (2016) to the 150 classes of its scene parsing benchmark."""

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat

from ...errors import InputError
from ..watched import watched
from .label_images import put_labels, put_picture

CLASSES = "objectInfo150.txt"
SPLITS = ("training", "validation")


def prepare_ade20k(source: str, target: str) -> list[str]:
    """Write `images/SPLIT/*.jpg`, `annotations/SPLIT/*.png`: 1 to 150, and 0 for what is none of the classes.

    A pixel's object is red // 10 * 256 + green of `*_seg.png`, a number in the index's list of names; the benchmark's
    classes are the 150 names of `objectInfo150.txt`, which comes with ADEChallengeData2016. The pictures keep their
    size; the benchmark's own are scaled to a shorter side of 512.

    Args:
        source: ADE20K_2016_07_26, with `index_ade20k.mat`, `images/training`, `images/validation`; `objectInfo150.txt`
            put beside the index.
        target: folder to write.

    Returns:
        Lines that say what was written.

    Raises:
        InputError: a file is missing or not of the release; a class is not among the index's names.
    """
    root = Path(source)
    table = _numbers(root)
    lines = []
    for split in SPLITS:
        labels = sorted((root / "images" / split).rglob("*_seg.png"))
        if not labels:
            raise InputError(f"{root / 'images' / split}: no *_seg.png in it")
        for path in watched(labels, "pictures"):
            picture = path.with_name(path.name.removesuffix("_seg.png") + ".jpg")
            if not picture.is_file():
                raise InputError(f"{picture}: missing; {path} is its label image")
            with Image.open(path) as image:
                colours = np.asarray(image.convert("RGB")).astype(np.int64)
            objects = colours[..., 0] // 10 * 256 + colours[..., 1]
            if objects.max(initial=0) >= len(table):
                raise InputError(f"{path}: object {objects.max()}, but the index has {len(table) - 1} names")
            put_labels(table[objects], Path(target, "annotations", split, f"{picture.stem}.png"))
            put_picture(picture, Path(target, "images", split, picture.name))
        lines.append(f"{target}: {split}: {len(labels):,} pictures")
    return lines


def _numbers(root: Path) -> np.ndarray:
    """Object number of the full data set, from 1 -> class, 1 to 150 or 0."""
    index, info = root / "index_ade20k.mat", root / CLASSES
    if not index.is_file():
        # The release of 2021 keeps it as a pickle, which could run any code.
        raise InputError(f"{index}: no such file; it comes with the release of 2016 (ADE20K_2016_07_26)")
    if not info.is_file():
        raise InputError(f"{info}: no such file; copy it from ADEChallengeData2016, it lists the 150 classes")
    names = [str(name) for name in loadmat(index, squeeze_me=True)["index"]["objectnames"].item()]
    rows = [line.split("\t") for line in info.read_text(encoding="utf-8").splitlines()[1:] if line.strip()]
    classes = [row[-1].strip() for row in rows]
    table = np.zeros(len(names) + 1, np.uint8)
    for number, name in enumerate(classes, 1):
        if name not in names:
            raise InputError(f"{index}: has no object {name!r}, class {number} of {info}")
        table[names.index(name) + 1] = number
    return table
