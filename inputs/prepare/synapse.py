"""Synapse's multi-atlas abdomen (30 CT scans, NIfTI) to slices with nine classes, in TransUNet's split."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...errors import InputError
from ..watched import watched
from .label_images import put_labels

TEST_CASES = (1, 2, 3, 4, 8, 22, 25, 29, 32, 35, 36, 38)  # of TransUNet, arXiv:2102.04306
# The scans' organs -> mmseg's SynapseDataset: aorta, gallbladder, kidneys left and right, liver, pancreas, spleen,
# stomach; the other five are background.
ORGANS = {8: 1, 4: 2, 3: 3, 2: 4, 6: 5, 11: 6, 1: 7, 7: 8}
WINDOW = (-125, 275)  # Hounsfield units that become black and white


def prepare_synapse(source: str, target: str) -> list[str]:
    """Write `img_dir/{train,val}/case0001_slice000.png` and `ann_dir/...` for mmseg's `SynapseDataset`.

    Slices are axial, turned as mmseg's converter turns them, and PNG, which keeps every grey level.

    Args:
        source: folder with `img/img0001.nii.gz`, ... and `label/label0001.nii.gz`, ...
        target: folder to write.

    Returns:
        Lines that say what was written.

    Raises:
        InputError: nibabel is not installed; no scans; one without labels or with labels of another size.
    """
    try:
        import nibabel
    except ImportError as error:
        raise InputError("reading NIfTI needs nibabel: pip install 'bestiary[medical]'") from error
    scans = sorted(Path(source, "img").glob("img*.nii*"))
    if not scans:
        raise InputError(f"{Path(source, 'img')}: no img*.nii.gz in it")
    table = np.zeros(256, np.uint8)
    for organ, number in ORGANS.items():
        table[organ] = number
    counts: dict[str, list[int]] = {"train": [], "val": []}
    for path in watched(scans, "scans"):
        case = re.match(r"img(\d{4})\.nii", path.name)
        if case is None:
            raise InputError(f"{path}: expected a name as img0001.nii.gz")
        labels = Path(source, "label", path.name.replace("img", "label", 1))
        if not labels.is_file():
            raise InputError(f"{labels}: missing; {path} has no labels without it")
        volume, organs = _read(nibabel, path), _read(nibabel, labels)
        if volume.shape != organs.shape:
            raise InputError(f"{labels}: is {organs.shape}, its scan {path} {volume.shape}")
        low, high = WINDOW
        grey = ((np.clip(volume, low, high) - low) / (high - low) * 255).round().astype(np.uint8)
        split = "val" if int(case[1]) in TEST_CASES else "train"
        for index in range(grey.shape[2]):
            name = f"case{case[1]}_slice{index:03d}.png"
            picture = Path(target, "img_dir", split, name)
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(grey[:, ::-1, index])).convert("RGB").save(picture)
            put_labels(
                np.ascontiguousarray(table[organs[:, ::-1, index].astype(np.uint8)]),
                Path(target, "ann_dir", split, name),
            )
        counts[split].append(grey.shape[2])
    return [f"{target}: {split}: {len(n)} scans, {sum(n):,} slices" for split, n in counts.items()]


def _read(nibabel: Any, path: Path) -> np.ndarray:
    try:
        volume = np.asarray(nibabel.load(path).dataobj)
    except Exception as error:  # nibabel's own, gzip's, zlib's
        raise InputError(f"{path}: cannot be read: {error}; get it again") from error
    if volume.ndim != 3:
        raise InputError(f"{path}: has {volume.ndim} axes; expected a volume (H, W, slices)")
    return volume
