"""Drawn predictions: where colour goes, how large, what is written; and pictures that are none."""

import numpy as np
import pytest
from PIL import Image

from bestiary.engine.drawing import colours_for, draw, label_places, read_picture, sheet, write_picture
from bestiary.engine.predictions import Classification, Detection, Segmentation
from bestiary.errors import InputError

CLASSES = ["background", "cat", "dog"]
COLOURS = [(40, 40, 40), (255, 0, 0), (0, 0, 255)]


def noise(height, width, seed=0):
    grey = np.random.default_rng(seed).integers(60, 120, (height, width, 1), dtype=np.uint8)
    return grey.repeat(3, axis=2)


def objects(count=2, size=(37, 53)):
    rng = np.random.default_rng(1)
    left = rng.uniform(0, 20, (count, 2))
    boxes = np.concatenate([left, left + rng.uniform(5, 15, (count, 2))], axis=1).astype(np.float32)
    masks = np.zeros((count, *size), bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1:y2, x1:x2] = True
    labels, scores = np.arange(count) % 2 + 1, np.linspace(0.9, 0.4, count).astype(np.float32)
    return Detection(boxes, labels, scores, masks)


def reddish(picture):
    return (picture[..., 0].astype(int) - picture[..., 2] > 40).mean()


@pytest.mark.parametrize(("shape", "long_side"), [((37, 53), 530), ((48, 48), 480), ((1, 7), 483), ((481, 600), 600)])
def test_small_pictures_are_enlarged_by_a_whole_number(shape, long_side):
    drawn = draw(noise(*shape), Detection(np.zeros((0, 4), np.float32), np.zeros(0, np.int64)), CLASSES, COLOURS)
    assert max(drawn.shape[:2]) == long_side and drawn.shape[0] * shape[1] == drawn.shape[1] * shape[0]


def test_objects_get_their_colours_at_their_place():
    picture = noise(40, 40)
    box = Detection(np.array([[10, 20, 30, 36]], np.float32), np.array([1]), np.array([0.75]))
    drawn = draw(picture, box, CLASSES, COLOURS)
    factor = drawn.shape[0] // 40
    outline = drawn[20 * factor : 36 * factor, 10 * factor - 1 : 10 * factor + 2]
    assert reddish(outline) > 0.5  # red in RGB: channels are not swapped
    assert reddish(drawn[30 * factor :, 33 * factor :]) == 0 and reddish(drawn[: 8 * factor]) == 0
    plain = reddish(drawn)
    box.masks = np.zeros((1, 40, 40), bool)
    box.masks[0, 20:36, 10:30] = True
    assert reddish(draw(picture, box, CLASSES, COLOURS)) > plain + 0.15  # a fifth of the picture is mask


@pytest.mark.parametrize("found", [objects(0), objects(1), objects(7)])
@pytest.mark.parametrize("with_masks", [True, False])
@pytest.mark.parametrize("with_scores", [True, False])
def test_any_number_of_objects(found, with_masks, with_scores):
    picture = noise(37, 53)
    found = Detection(
        found.boxes, found.labels, found.scores if with_scores else None, found.masks if with_masks else None
    )
    before = picture.copy()
    drawn = draw(picture, found, CLASSES, COLOURS, long_side=212)
    assert drawn.shape == (148, 212, 3) and drawn.dtype == np.uint8
    assert (picture == before).all()
    empty = draw(picture, objects(0), CLASSES, COLOURS, long_side=212)
    assert (drawn != empty).any() == bool(len(found.boxes))


def test_regions_are_painted_and_named():
    labels = np.zeros((30, 50), np.int64)
    labels[:, 25:40] = 1
    labels[:, 40:] = 255
    picture = noise(30, 50)
    drawn = draw(picture, Segmentation(labels), CLASSES, COLOURS, long_side=500)
    assert drawn.shape[0] > 300 and drawn.shape[1] == 500  # a strip with names below
    assert reddish(drawn[:300, 250:400]) == 1 and reddish(drawn[:300, :250]) == 0 and reddish(drawn[:300, 400:]) == 0
    assert reddish(drawn[300:]) > 0.005  # the patch of colour beside the name
    # More names than fit side by side make the strip higher.
    many = Segmentation(np.arange(60).repeat(25).reshape(30, 50))
    names = [f"a rather long name {i}" for i in range(60)]
    assert len(draw(picture, many, names, colours_for(60), 500)) > len(drawn) + 300


def test_classes_are_written_below():
    best = Classification(np.array([2, 1]), np.array([0.9, 0.1], np.float32))
    drawn = draw(noise(28, 28), best, CLASSES, COLOURS)
    assert drawn.shape[1] == 504 and drawn.shape[0] > 504
    strip = drawn[504:].astype(int)
    assert (strip[..., 2] - strip[..., 0] > 200).any() and (strip[..., 0] - strip[..., 2] > 200).any()
    assert (strip.sum(axis=2) < 100).sum() > 100  # ink


def test_colours():
    assert colours_for(2, [[1, 2, 3], [4, 5, 6], [7, 8, 9]]) == [(1, 2, 3), (4, 5, 6)]
    for palette in (None, "random", [[1, 2, 3]]):
        colours = np.array(colours_for(24, palette), int)
        gaps = np.abs(colours[:, None] - colours[None]).sum(-1) + 999 * np.eye(24, dtype=int)
        assert gaps.min() > 20
    assert len(colours_for(1)) == 1


def test_sheet_holds_every_picture_in_order():
    colour = np.array([0, 255, 0], np.uint8)  # titles are grey

    def plain(height, i):
        return np.tile(colour - np.array([0, i, 0], np.uint8), (height, 30, 1))

    cells = [(f"{i}.png", [plain(20 + i, i), plain(20, 100 + i)]) for i in range(5)]
    made = sheet(cells, ["ground truth", "prediction"], columns=2)
    found = {i: (made == colour - np.array([0, i, 0], np.uint8)).all(axis=2) for i in (*range(5), *range(100, 105))}
    places = [np.argwhere(found[i]).min(axis=0).tolist() for i in (1, 101, 2)]
    assert places[0][0] == places[1][0] < places[2][0] and places[0][1] < places[1][1]
    for i in range(5):
        assert found[i].sum() == (20 + i) * 30 and found[100 + i].sum() == 600
    assert sheet(cells[:1], ["prediction", ""]).shape[1] < made.shape[1]
    with pytest.raises(ValueError, match="sheet: no pictures"):
        sheet([], ["prediction"])


def test_reading_and_writing(tmp_path):
    picture = noise(5, 9)
    write_picture(tmp_path / "new" / "a.png", picture)
    assert (read_picture(tmp_path / "new" / "a.png") == picture).all()
    Image.fromarray(picture[..., 0]).save(tmp_path / "grey.png")
    assert read_picture(tmp_path / "grey.png").shape == (5, 9, 3)
    for name, content in (("text.png", b"hello"), ("empty.jpg", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: cannot be decoded as a picture"):
            read_picture(tmp_path / name)
    with pytest.raises(InputError, match="no.png: no such picture"):
        read_picture(tmp_path / "no.png")


def test_labels_never_cover_one_another():
    rng = np.random.default_rng(2)
    for count in (1, 5, 60):
        corners = rng.uniform(0, 300, (count, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 100, (count, 2))], axis=1)
        sizes = [(int(width), 18) for width in rng.integers(30, 90, count)]
        places = label_places(boxes, sizes, (320, 240))
        assert places[0] is not None and (count < 60 or None in places)
        covered = np.zeros((240, 320), int)
        for place, (width, height) in zip(places, sizes, strict=True):
            if place is not None:
                x, y = place
                assert 0 <= x <= 320 - width and 0 <= y <= 240 - height
                covered[y : y + height, x : x + width] += 1
        assert covered.max() == 1
    # The place above the box is the first choice, and inside it the next.
    box = np.array([[50, 60, 90, 100]], np.float32)
    assert label_places(box.repeat(2, axis=0), [(30, 18)] * 2, (320, 240)) == [(50, 42), (50, 60)]
