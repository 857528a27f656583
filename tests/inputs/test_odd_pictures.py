"""Odd kinds of pictures have the right pixels, by our step and by mmcv's; compared with what was written."""

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from PIL import Image, ImageSequence

from bestiary.inputs.transforms import LoadPicture

RNG = np.random.default_rng(0)
COLOURS = np.kron(RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
GREY = COLOURS[..., 0]
THREE = np.repeat(GREY[..., None], 3, axis=2)


def palette():
    return Image.fromarray(COLOURS).convert("P", palette=Image.Palette.ADAPTIVE, colors=24)


def frames():
    return [Image.fromarray(GREY), Image.fromarray(255 - GREY)]


def animated(path):
    frames()[0].save(path, save_all=True, append_images=frames()[1:], duration=40)


KINDS = {  # name of the file: how it is written, RGB that it shows, how far a decoder may be from it
    "grey.png": (Image.fromarray(GREY), THREE, 0),
    "grey.jpg": (Image.fromarray(GREY), THREE, 40),
    "bits.png": (Image.fromarray(GREY > 127), np.where(THREE > 127, 255, 0), 0),
    "alpha.png": (Image.fromarray(np.dstack([COLOURS, GREY])), COLOURS, 0),
    "grey_alpha.png": (Image.fromarray(np.dstack([GREY, 255 - GREY])), THREE, 0),
    "palette.png": (palette(), np.asarray(palette().convert("RGB")), 0),
    "deep.png": (Image.fromarray(GREY.astype(np.uint16) * 257), THREE, 1),
    "cmyk.jpg": (Image.fromarray(COLOURS).convert("CMYK"), COLOURS, 80),
    "progressive.jpg": (Image.fromarray(COLOURS), COLOURS, 80),
    "colours.webp": (Image.fromarray(COLOURS), COLOURS, 0),
    "colours.bmp": (Image.fromarray(COLOURS), COLOURS, 0),
    "colours.tif": (Image.fromarray(COLOURS), COLOURS, 0),
    "still.gif": (Image.fromarray(GREY), THREE, 0),
}
OPTIONS = {"progressive.jpg": dict(progressive=True, quality=95, subsampling=0), "colours.webp": dict(lossless=True)}
OPTIONS["cmyk.jpg"] = OPTIONS["grey.jpg"] = dict(quality=95)


def ours(path):
    return np.asarray(LoadPicture()(dict(img_path=str(path)))["img"])


def mmcvs(path):
    return LoadImageFromFile().transform(dict(img_path=str(path)))["img"][..., ::-1]


@pytest.mark.parametrize("read", [ours, mmcvs])
@pytest.mark.parametrize("name", KINDS)
def test_right_pixels(name, read, tmp_path):
    picture, shown, far = KINDS[name]
    picture.save(tmp_path / name, **OPTIONS.get(name, {}))
    got = read(tmp_path / name).astype(int)
    assert got.shape == shown.shape
    assert abs(got - shown).max() <= far and abs(got - shown).mean() <= far / 10


@pytest.mark.parametrize("read", [ours, mmcvs])
def test_the_first_frame_of_an_animation(read, tmp_path):
    animated(tmp_path / "a.gif")
    assert len(list(ImageSequence.Iterator(Image.open(tmp_path / "a.gif")))) == 2
    assert np.array_equal(read(tmp_path / "a.gif"), THREE)


@pytest.mark.parametrize("read", [ours, mmcvs])
def test_the_suffix_does_not_matter(read, tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert np.array_equal(read(tmp_path / "a.jpg"), COLOURS)


def test_orientation_is_obeyed_by_mmcv_alone(tmp_path):
    """As each documents; their annotations are made on what they show."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to show
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    assert np.array_equal(ours(tmp_path / "a.png"), COLOURS)
    turned = mmcvs(tmp_path / "a.jpg").astype(int)
    assert turned.shape == (48, 32, 3) and abs(turned - np.rot90(COLOURS, -1)).mean() < 5
