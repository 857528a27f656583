"""Bundled real data: handwritten digits on photographs, in the three layouts that users have.

The digits are the 1,797 of scikit-learn's `load_digits` (the test set of "Optical Recognition of Handwritten Digits",
E. Alpaydin and C. Kaynak, UCI repository, CC BY 4.0), 8 x 8 pixels of 17 greys each, enlarged smoothly and cut where
there is enough ink. The backgrounds are crops of scikit-learn's two sample photographs, china.jpg (danielbuechele) and
flower.jpg (vultilion), CC BY 2.0. Nothing is downloaded.

Which digit belongs to which split is fixed, whatever the seed: 80 % of each class for training, the rest for
validation. So is the part of the photographs: validation crops come from the rightmost quarter, training crops from
the rest.
"""

import json
import os
import shutil
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import InputError

VERSION = 1  # of the generator: one request of one version gives one set of files
LAYOUTS = ("coco", "ade20k", "imagenet")
CLASSES = tuple("0123456789")
RECORD = "digits.json"

_SPLITS = ("train", "val")
_COCO = {"train": "train2017", "val": "val2017"}
_ADE20K = {"train": "training", "val": "validation"}
_INK = 0.42  # share of full ink from which a pixel is the digit's: at 0.5 strokes break, at 0.38 more loops close
_OVERLAP = 0.05  # of the smaller box, at most, may lie in another digit's box
_SOURCE = (
    "Digits: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI repository, CC BY 4.0, "
    "by way of scikit-learn. Photographs: china.jpg by danielbuechele and flower.jpg by vultilion, CC BY 2.0."
)


class Glyph(NamedTuple):
    """A digit cut out: which of the 1,797 it is, its class 0..9, its pixels and its ink 0..1, both (h, w)."""

    index: int
    label: int
    mask: np.ndarray
    ink: np.ndarray


class Placed(NamedTuple):
    """A digit in a picture: which of the 1,797, its class 0..9, and the pixels (H, W) bool that show it."""

    index: int
    label: int
    mask: np.ndarray


class Scene(NamedTuple):
    """A picture (H, W, 3) uint8, the digits on it, and the photograph and the (x, y, side) of its background."""

    image: np.ndarray
    digits: list[Placed]
    photo: str
    crop: tuple[int, int, int]


@cache
def _ink_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """All digits: ink (1797, 8, 8) float32 in 0..1, and classes (1797,)."""
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    return (bunch.images / 16).astype(np.float32), bunch.target.astype(np.int64)


@cache
def _photos() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_sample_images

    bunch = load_sample_images()
    return {Path(name).name: image for name, image in zip(bunch.filenames, bunch.images, strict=True)}


@cache
def split_digits() -> dict[str, np.ndarray]:
    """Indices into the 1,797 for 'train' and 'val': about 80 and 20 % of each class, no index in both, seed or not."""
    labels = _ink_and_labels()[1]
    rng = np.random.default_rng(VERSION)
    parts = {split: [] for split in _SPLITS}
    for label in range(10):
        indices = rng.permutation(np.flatnonzero(labels == label))
        cut = round(0.8 * len(indices))
        parts["train"].append(indices[:cut])
        parts["val"].append(indices[cut:])
    return {split: np.sort(np.concatenate(arrays)) for split, arrays in parts.items()}


def cut_out(index: int, height: float) -> Glyph:
    """Enlarge digit `index` so that its 8 rows become `height` pixels, and cut it to the box of its mask."""
    ink, labels = _ink_and_labels()
    padded = Image.fromarray(np.pad(ink[index], 1))  # an empty rim: many digits touch the border of their 8 x 8
    side = round(height * 10 / 8)
    large = np.asarray(padded.resize((side, side), Image.Resampling.BICUBIC)).clip(0, 1)
    mask = large >= _INK
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Glyph(int(index), int(labels[index]), mask[box], large[box])


def _background(rng: np.random.Generator, split: str, size: int, sides: tuple[int, int]):
    """A square crop of a photograph, mirrored half of the time, resized to `size`; and (photo, (x, y, side))."""
    name = ("china.jpg", "flower.jpg")[rng.integers(2)]
    photo = _photos()[name]
    height, width = photo.shape[:2]
    border = width * 3 // 4
    left, right = (0, border) if split == "train" else (border, width)
    side = int(rng.integers(sides[0], sides[1] + 1))
    x, y = int(rng.integers(left, right - side + 1)), int(rng.integers(0, height - side + 1))
    crop = Image.fromarray(photo[y : y + side, x : x + side]).resize((size, size), Image.Resampling.BICUBIC)
    image = np.asarray(crop)
    return (image[:, ::-1] if rng.integers(2) else image).copy(), name, (x, y, side)


def _colour(rng: np.random.Generator, surroundings: np.ndarray) -> np.ndarray:
    """A random colour (3,) that stands out from pixels (h, w, 3): the first of 24 that does, or the best of them."""
    weights = np.array([0.55, 0.75, 0.35])  # roughly how much the eye sees of a difference in red, green, blue
    candidates = rng.integers(0, 256, (24, 3)).astype(np.float64)
    candidates[-2:] = [[20], [235]]  # where the background is busy, nearly black or nearly white
    pixels = surroundings[::3, ::3].reshape(-1, 3).astype(np.float64)  # one in nine is enough, and quick
    apart = np.linalg.norm((candidates[:, None] - pixels) * weights, axis=-1)
    worst = np.quantile(apart, 0.1, axis=1)
    good = np.flatnonzero(worst >= 75)
    return candidates[good[0] if len(good) else worst.argmax()]


def _paint(rng: np.random.Generator, image: np.ndarray, glyph: Glyph, y: int, x: int) -> np.ndarray:
    """Draw the digit with its upper left corner at (y, x); returns its pixels, (H, W) bool. Thin ink is darker."""
    h, w = glyph.mask.shape
    spot = image[y : y + h, x : x + w]
    around = image[max(y - 2, 0) : y + h + 2, max(x - 2, 0) : x + w + 2]
    shade = 0.6 + 0.4 * glyph.ink[..., None]  # small loops close in the mask: the shading still shows them
    spot[glyph.mask] = (_colour(rng, around) * shade).round().astype(np.uint8)[glyph.mask]
    mask = np.zeros(image.shape[:2], bool)
    mask[y : y + h, x : x + w] = glyph.mask
    return mask


def _intersection(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    """Common area of boxes (y, x, h, w), as a share of the smaller one."""
    h = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    w = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(h, 0) * max(w, 0) / min(a[2] * a[3], b[2] * b[3])


def draw_scene(seed: int, split: str, number: int, size: int = 128) -> Scene:
    """Scene `number` of a split: 2 to 5 of the split's digits, 24 to 56 pixels high at size 128, on a photograph.

    It depends on these arguments alone: the first scenes of a small set are those of a large one.
    """
    rng = np.random.default_rng((VERSION, seed, _SPLITS.index(split), 0, number))
    image, photo, crop = _background(rng, split, size, (64, 160))
    boxes: list[tuple[int, ...]] = []
    digits: list[Placed] = []
    wanted, tries = rng.integers(2, 6), 0
    while len(digits) < wanted and (tries < 200 or len(digits) < 2):
        tries += 1
        glyph = cut_out(rng.choice(split_digits()[split]), rng.uniform(24, 56) * size / 128)
        h, w = glyph.mask.shape
        y, x = int(rng.integers(0, size - h + 1)), int(rng.integers(0, size - w + 1))
        if any(_intersection((y, x, h, w), box) > _OVERLAP for box in boxes):
            continue
        mask = _paint(rng, image, glyph, y, x)
        digits = [placed._replace(mask=placed.mask & ~mask) for placed in digits]  # the later digit lies on top
        digits.append(Placed(glyph.index, glyph.label, mask))
        boxes.append((y, x, h, w))
    return Scene(image, digits, photo, crop)


def draw_digit(seed: int, split: str, index: int, copy: int, size: int = 48) -> Scene:
    """One digit that fills most of a small picture; `copy` counts the renderings of the same digit."""
    rng = np.random.default_rng((VERSION, seed, _SPLITS.index(split), 1, index, copy))
    image, photo, crop = _background(rng, split, size, (40, 160))
    glyph = cut_out(index, rng.uniform(0.65, 0.95) * size)
    h, w = glyph.mask.shape
    y, x = int(rng.integers(0, size - h + 1)), int(rng.integers(0, size - w + 1))
    mask = _paint(rng, image, glyph, y, x)
    return Scene(image, [Placed(glyph.index, glyph.label, mask)], photo, crop)


def _jpeg(image: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)  # halved colour would blur thin strokes
    return buffer.getvalue()


def _write_scenes(root: Path, layouts: tuple[str, ...], split: str, seed: int, count: int, size: int, tick) -> None:
    """The pictures of one split, with COCO's instances and ADE20K's label images as `layouts` asks for."""
    from pycocotools import mask as rle  # needed here alone

    coco_dir = root / "coco" / _COCO[split]
    ade_images, ade_labels = (root / "ade20k" / kind / _ADE20K[split] for kind in ("images", "annotations"))
    for folder in [coco_dir] * ("coco" in layouts) + [ade_images, ade_labels] * ("ade20k" in layouts):
        folder.mkdir(parents=True)
    images, annotations = [], []
    for number in range(count):
        scene = draw_scene(seed, split, number, size)
        picture, stem = _jpeg(scene.image), f"{number:06d}"
        if "ade20k" in layouts:
            labels = np.zeros((size, size), np.uint8)
            for digit in scene.digits:
                labels[digit.mask] = digit.label + 1
            (ade_images / f"{stem}.jpg").write_bytes(picture)
            Image.fromarray(labels).save(ade_labels / f"{stem}.png")
        if "coco" in layouts:
            (coco_dir / f"{stem}.jpg").write_bytes(picture)
            meta = dict(id=number + 1, file_name=f"{stem}.jpg", height=size, width=size)
            images.append(dict(**meta, photo=scene.photo, crop=scene.crop))
            for digit in scene.digits:
                code = rle.encode(np.asfortranarray(digit.mask, dtype=np.uint8))
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=number + 1,
                        category_id=digit.label + 1,
                        bbox=rle.toBbox(code).tolist(),
                        area=int(rle.area(code)),
                        iscrowd=0,
                        segmentation=dict(size=code["size"], counts=code["counts"].decode("ascii")),
                        digit=digit.index,
                    )
                )
        tick()
    if "coco" in layouts:
        categories = [dict(id=i + 1, name=name, supercategory="digit") for i, name in enumerate(CLASSES)]
        info = dict(description=f"Handwritten digits on photographs, {split}. {_SOURCE}")
        document = dict(info=info, categories=categories, images=images, annotations=annotations)
        folder = root / "coco" / "annotations"
        folder.mkdir(exist_ok=True)
        (folder / f"instances_{_COCO[split]}.json").write_text(json.dumps(document), encoding="utf-8")


def _write_crops(root: Path, split: str, seed: int, copies: int, size: int, tick) -> None:
    """Class folders of single digits, `INDEX_COPY.jpg`."""
    for name in CLASSES:
        (root / "imagenet" / split / name).mkdir(parents=True)
    for index in split_digits()[split]:
        for copy in range(copies):
            scene = draw_digit(seed, split, int(index), copy, size)
            folder = root / "imagenet" / split / CLASSES[scene.digits[0].label]
            (folder / f"{index:04d}_{copy}.jpg").write_bytes(_jpeg(scene.image))
            tick()


def _check(root: Path, request: dict, overwrite: bool) -> bool:
    """True if `root` already holds this very request; InputError if it holds something that must not be lost."""
    for key, least in dict(seed=0, train=1, val=1, size=64, crop_size=24, copies=1).items():
        if request[key] < least:
            raise InputError(f"digits: {key} must be at least {least}, got {request[key]}")
    if unknown := set(request["layouts"]) - set(LAYOUTS):
        raise InputError(f"digits: no layout {sorted(unknown)}; there are {', '.join(LAYOUTS)}")
    if not request["layouts"]:
        raise InputError(f"digits: no layout asked for; name one of {', '.join(LAYOUTS)}")
    if not root.exists():
        return False
    if not root.is_dir():
        raise InputError(f"{root}: is a file; name a folder to write the digits into")
    present = {entry.name for entry in root.iterdir()}
    if not present:
        return False
    if foreign := sorted(present - {RECORD, *LAYOUTS}):
        raise InputError(f"{root}: holds other things ({', '.join(foreign[:3])}, ...); name a folder of its own")
    found: object = None
    if RECORD in present:
        try:
            found = json.loads((root / RECORD).read_text(encoding="utf-8")).get("request")
        except (ValueError, AttributeError):  # not JSON, or not an object: no record of ours
            found = None
    if found == request and not overwrite:
        return True
    if RECORD not in present:
        raise InputError(f"{root}: not empty, and without {RECORD}: not digits of ours; name another folder")
    if not overwrite:
        what = "another request" if found is None else _difference(found, request)
        raise InputError(
            f"{root}: holds digits made with {what}; add --overwrite to replace them, or name another folder"
        )
    return False


def _difference(found: dict, request: dict) -> str:
    keys = [key for key in request if found.get(key) != request[key]]
    return ", ".join(f"{key} {found.get(key)!r} (asked for: {request[key]!r})" for key in keys) or "another request"


def make_digits(
    root: str | os.PathLike,
    *,
    seed: int = 0,
    train: int = 1000,
    val: int = 200,
    size: int = 128,
    crop_size: int = 48,
    copies: int = 4,
    layouts: tuple[str, ...] = LAYOUTS,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Write the digits in COCO's, ADE20K's and ImageNet's layout under `root`, whole or not at all.

    coco/{train2017,val2017}/*.jpg with coco/annotations/instances_{train2017,val2017}.json (masks as compressed RLE,
    categories "0".."9" with ids 1..10); ade20k/{images,annotations}/{training,validation}/ with the same scenes (0 is
    background, 1..10 digit + 1); imagenet/{train,val}/{0..9}/*.jpg; and digits.json, which says how they were made.

    Args:
        root: folder to make; its parents are made too.
        seed: of the placing, sizes, colours and crops. Which digit is in which split does not depend on it.
        train, val: number of scenes.
        size: of a scene, pixels; digits grow with it.
        crop_size: of a class folder's pictures, pixels.
        copies: renderings of each training digit in the class folders; each held-out digit has one.
        layouts: which of the three to write.
        overwrite: replace digits that were made with other arguments, or the same ones again.
        progress: called with (done, total) after each picture.

    Returns:
        The content of digits.json, and `written`: False if `root` held the same request already.

    Raises:
        InputError: an argument out of range; `root` holds something else.
    """
    root = Path(root).expanduser().resolve()
    layouts = tuple(name for name in LAYOUTS if name in layouts) + tuple(sorted(set(layouts) - set(LAYOUTS)))
    request = dict(version=VERSION, seed=seed, train=train, val=val, size=size)
    request |= dict(crop_size=crop_size, copies=copies, layouts=list(layouts))
    if _check(root, request, overwrite):
        return json.loads((root / RECORD).read_text(encoding="utf-8")) | dict(written=False)

    scenes = dict(train=train, val=val) if {"coco", "ade20k"} & set(layouts) else {}
    renderings = dict(train=copies, val=1) if "imagenet" in layouts else {}
    crops = {split: n * len(split_digits()[split]) for split, n in renderings.items()}
    total, done = sum(scenes.values()) + sum(crops.values()), 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    partial = root.with_name(f".{root.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{root}: cannot be made: {error.strerror}; name a folder that you may write to") from error
    try:
        for split, count in scenes.items():
            _write_scenes(partial, layouts, split, seed, count, size, tick)
        for split, n in renderings.items():
            _write_crops(partial, split, seed, n, crop_size, tick)
        record = dict(request=request, scenes=scenes, crops=crops, source=_SOURCE)
        (partial / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        if root.exists():
            _replace(partial, root)
        else:
            partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record | dict(written=True)


def _replace(new: Path, root: Path) -> None:
    """Put `new` in the place of the folder `root`; the old one is deleted last."""
    old = root.with_name(f".{root.name}.old-{os.getpid()}")
    root.rename(old)
    try:
        new.rename(root)
    except BaseException:  # put the old one back, whatever stopped us
        old.rename(root)
        raise
    shutil.rmtree(old)
