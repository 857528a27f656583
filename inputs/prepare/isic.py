"""ISIC 2017 and 2018, skin lesions: masks of 0 and 255 made class numbers, and a split of the training pictures."""

import random
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import InputError
from ..check_files import some
from ..released.layouts import ISIC2017, ISIC2018
from ..watched import watched
from .label_images import put_labels, put_picture

YEARS = {"isic2017": ISIC2017, "isic2018": ISIC2018}


def prepare_isic(name: str, source: str, target: str, share: float, seed: int) -> list[str]:
    """Write `images/SPLIT/*.jpg` and `annotations/SPLIT/*.png`, 0 for skin and 1 for the lesion.

    Args:
        name: 'isic2017' or 'isic2018'.
        source: folder of the release's folders.
        target: folder to write.
        share: part of the training pictures that becomes `validation`; VM-UNet (arXiv:2402.02491) and MHS-VM
            (arXiv:2406.05992) hold out 0.3 and use the training pictures alone. 0 takes the release's own splits.
        seed: of the choice; the papers' own lists are not published with their numbers.

    Returns:
        Lines that say what was written.

    Raises:
        InputError: a folder is missing; pictures without mask; a mask of other values or of another size.
    """
    layout, lines = YEARS[name], []
    splits = layout if not share else {"training": layout["training"]}
    for split, (pictures, masks, _) in splits.items():
        folder, labels = Path(source, pictures), Path(source, masks)
        if not folder.is_dir() or not labels.is_dir():
            raise InputError(f"{folder if not folder.is_dir() else labels}: no such folder; it is part of {name}")
        stems = sorted(path.stem for path in folder.glob("*.jpg"))
        if lacking := [stem for stem in stems if not (labels / f"{stem}_segmentation.png").is_file()]:
            raise InputError(f"{labels}: no *_segmentation.png for {len(lacking)} pictures: {some(lacking)}")
        parts = {split: stems}
        if share:
            order = list(stems)
            random.Random(seed).shuffle(order)
            held = round(share * len(order))
            parts = {"training": order[held:], "validation": order[:held]}
        for part, names in parts.items():
            for stem in watched(names, "pictures"):
                put_labels(
                    read_mask(labels / f"{stem}_segmentation.png", folder / f"{stem}.jpg"),
                    Path(target, "annotations", part, f"{stem}.png"),
                )
                put_picture(folder / f"{stem}.jpg", Path(target, "images", part, f"{stem}.jpg"))
            lines.append(f"{target}: {part}: {len(names):,} pictures")
    return lines


def read_mask(path: Path, picture: Path) -> np.ndarray:
    """A mask of 0 and 255 as 0 and 1.

    Raises:
        InputError: it has other values, or not its picture's size.
    """
    with Image.open(path) as image, Image.open(picture) as coloured:
        mask, size = np.asarray(image.convert("L")), coloured.size
    if mask.shape[::-1] != size:
        raise InputError(f"{path}: is {mask.shape[1]} x {mask.shape[0]}, its picture {picture} {size[0]} x {size[1]}")
    if not np.isin(mask, (0, 255)).all():
        raise InputError(f"{path}: has values besides 0 and 255; it is not a mask of the release")
    return (mask > 0).astype(np.uint8)
