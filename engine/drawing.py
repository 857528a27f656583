"""Predictions on pictures, and sheets of pictures. Small pictures are enlarged until their labels can be read."""

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..errors import InputError
from ..registry import HOOKS
from .predictions import Classification, Detection, Prediction, Segmentation, name_of, prediction_of

Picture = NDArray[np.uint8]  # (H, W, 3), RGB
Colour = tuple[int, int, int]

READABLE = 480  # pixels of the longer side from which labels can be read
INK, PAPER = (20, 20, 20), (255, 255, 255)


def read_picture(path: str | Path) -> Picture:
    """A picture file as (H, W, 3) RGB, turned as its EXIF data say.

    Raises:
        InputError: it is not there or cannot be decoded.
    """
    if not Path(path).is_file():
        raise InputError(f"{path}: no such picture")
    # Not cv2.imread: it prints to stderr what is reported here, and does not take every file name on every system.
    data = np.fromfile(path, dtype=np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if picture is None:
        raise InputError(f"{path}: cannot be decoded as a picture; take it out or replace it")
    return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def write_picture(path: str | Path, picture: Picture) -> None:
    """Write (H, W, 3) RGB or (H, W) as PNG, making the folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, format="PNG")


def colours_for(num_classes: int, palette: object = None) -> list[Colour]:
    """A colour a class: the data set's own where it has one for each, otherwise hues far apart."""
    if isinstance(palette, Sequence) and not isinstance(palette, str) and len(palette) >= num_classes > 0:
        return [tuple(int(part) for part in colour) for colour in palette[:num_classes]]
    # Steps of the golden angle keep neighbours apart for any number of classes; three shades for the many.
    hues = [(i * 0.381966 * 180) % 180 for i in range(max(num_classes, 1))]
    values = [(230, 180, 255)[i // 8 % 3] for i in range(len(hues))]
    hsv = np.array([[(hue, 200, value) for hue, value in zip(hues, values, strict=True)]], np.uint8)
    return [tuple(colour) for colour in cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0].tolist()]


def draw(
    picture: Picture,
    prediction: Prediction,
    classes: list[str],
    colours: list[Colour],
    long_side: int | None = None,
    lines: int | None = None,
) -> Picture:
    """`prediction` on a copy of `picture`; segmentations and classes get a strip with names below.

    Args:
        picture: (H, W, 3) RGB.
        prediction: of this picture, in its pixels.
        classes: names, by class number.
        colours: RGB, by class number.
        long_side: scale to this size; by default only small pictures are, by a whole number.
        lines: of names in the strip, so that all frames of a video are equally high; by default as many as needed.
    """
    height, width = picture.shape[:2]
    if long_side is None:
        factor = float(max(1, math.ceil(READABLE / max(height, width))))
    else:
        factor = long_side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    if isinstance(prediction, Detection):
        return _draw_objects(scaled, prediction, classes, colours, (size[0] / width, size[1] / height))
    if isinstance(prediction, Segmentation):
        return _draw_regions(scaled, prediction, classes, colours, lines)
    return _below(scaled, _class_rows(prediction, classes, colours), lines=lines)


def _draw_objects(
    picture: Picture, found: Detection, classes: list[str], colours: list[Colour], factors: tuple[float, float]
) -> Picture:
    import supervision as sv  # a second of imports, for the pictures alone

    if not len(found.boxes):
        return picture
    objects = sv.Detections(
        xyxy=found.boxes * np.array([*factors, *factors], np.float32),
        mask=None if found.masks is None else np.stack([_scale_mask(mask, picture) for mask in found.masks]),
        class_id=found.labels,
    )
    palette = sv.ColorPalette([sv.Color(*colour) for colour in colours])
    scores = [""] * len(found.labels) if found.scores is None else [f" {score:.2f}" for score in found.scores]
    texts = [name_of(classes, label) + score for label, score in zip(found.labels, scores, strict=True)]
    # supervision paints in the order of the picture's channels: it thinks in BGR.
    canvas = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    if objects.mask is not None:
        canvas = sv.MaskAnnotator(color=palette, opacity=0.4).annotate(canvas, objects)
    canvas = sv.BoxAnnotator(color=palette, thickness=2).annotate(canvas, objects)
    return _labelled(cv2.cvtColor(canvas, cv2.COLOR_BGR2RGB), objects.xyxy, texts, [colours[i] for i in found.labels])


def _labelled(picture: Picture, boxes: NDArray[np.float32], texts: list[str], colours: list[Colour]) -> Picture:
    """Texts at their boxes, best first: none covers another, and one without room is left out."""
    font, canvas = ImageFont.load_default(13), Image.fromarray(picture)
    pen = ImageDraw.Draw(canvas)
    sizes = [(math.ceil(font.getlength(text)) + 6, 18) for text in texts]
    for place, size, text, colour in zip(label_places(boxes, sizes, canvas.size), sizes, texts, colours, strict=True):
        if place is not None:
            x, y = place
            pen.rectangle((x, y, x + size[0] - 1, y + size[1] - 1), fill=colour)
            pen.text((x + 3, y + 1), text, fill=INK if _is_light(colour) else PAPER, font=font)
    return np.asarray(canvas)


def label_places(
    boxes: NDArray[np.float32], sizes: Sequence[tuple[int, int]], picture: tuple[int, int]
) -> list[tuple[int, int] | None]:
    """Left upper corners of labels at the corners of their boxes, within the picture and clear of those before them.

    Args:
        boxes: (N, 4), x1, y1, x2, y2, those that matter most first.
        sizes: (width, height) of each label.
        picture: (width, height).

    Returns:
        A place a label, None where all are taken.
    """
    places: list[tuple[int, int] | None] = []
    taken = np.zeros((0, 4))
    for (x1, y1, x2, y2), (width, height) in zip(boxes.tolist(), sizes, strict=True):
        corners = [(x1, y1 - height), (x1, y1), (x2 - width, y1 - height), (x1, y2), (x1, y2 - height)]
        place = None
        for x, y in [*corners, (x2 - width, y2), (x2 - width, y1), (x2 - width, y2 - height)]:
            left = round(min(max(x, 0), max(picture[0] - width, 0)))
            top = round(min(max(y, 0), max(picture[1] - height, 0)))
            free = (taken[:, 0] >= left + width) | (taken[:, 2] <= left)
            free |= (taken[:, 1] >= top + height) | (taken[:, 3] <= top)
            if free.all():
                place = left, top
                taken = np.concatenate([taken, [[left, top, left + width, top + height]]])
                break
        places.append(place)
    return places


def _is_light(colour: Colour) -> bool:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue > 128  # luma, ITU-R BT.601


def _scale_mask(mask: NDArray[np.bool_], picture: Picture) -> NDArray[np.bool_]:
    return cv2.resize(mask.astype(np.float32), picture.shape[1::-1], interpolation=cv2.INTER_LINEAR) >= 0.5


def _draw_regions(
    picture: Picture, regions: Segmentation, classes: list[str], colours: list[Colour], lines: int | None = None
) -> Picture:
    present, counts = np.unique(regions.labels, return_counts=True)
    # A class of that name stays unpainted: the picture shows through.
    painted = [label for label in present.tolist() if label < len(colours) and name_of(classes, label) != "background"]
    table = np.zeros((max(256, len(colours), int(present[-1]) + 1), 3), np.float32)
    alpha = np.zeros(len(table), np.float32)
    for label in painted:
        table[label], alpha[label] = colours[label], 0.7
    labels = cv2.resize(regions.labels.astype(np.uint16), picture.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    share = alpha[labels][..., None]
    canvas = (picture * (1 - share) + table[labels] * share).round().astype(np.uint8)
    largest = sorted(painted, key=lambda label: -counts[present.tolist().index(label)])
    shares = {label: counts[present.tolist().index(label)] / regions.labels.size for label in largest}
    rows = [(colours[label], f"{name_of(classes, label)} {shares[label]:.1%}") for label in largest]
    return _below(canvas, rows, lines=lines)


def _class_rows(best: Classification, classes: list[str], colours: list[Colour]) -> list[tuple[Colour, str]]:
    scores = [""] * len(best.labels) if best.scores is None else [f" {score:.3f}" for score in best.scores]
    rows = zip(best.labels.tolist(), scores, strict=True)
    return [(colours[label % len(colours)], name_of(classes, label) + score) for label, score in rows]


def _below(picture: Picture, rows: list[tuple[Colour, str]], text_size: int = 16, lines: int | None = None) -> Picture:
    """A strip below the picture: a patch of colour and a text for each row, as many side by side as fit; of `lines`
    lines if that is given, with the rows that they have room for."""
    font, line, patch = ImageFont.load_default(text_size), text_size + 8, text_size
    height, width = picture.shape[:2]
    places, x, y = [], 6, 0
    for colour, text in rows:
        needed = patch + 6 + font.getlength(text) + 14
        if x > 6 and x + needed > width:
            x, y = 6, y + line
        places.append((x, y, colour, text))
        x += needed
    strip = Image.new("RGB", (width, (y + line if lines is None else lines * line) + 2), PAPER)
    pen = ImageDraw.Draw(strip)
    for x, y, colour, text in places:
        pen.rectangle((x, y + 5, x + patch - 1, y + 4 + patch), fill=colour, outline=INK)
        pen.text((x + patch + 6, y + 4), text, fill=INK, font=font)
    return np.concatenate([picture, np.asarray(strip)])


def sheet(cells: list[tuple[str, list[Picture]]], captions: list[str], columns: int | None = None) -> Picture:
    """A contact sheet.

    Args:
        cells: a title and one drawn picture a caption, for each picture.
        captions: what the pictures of a cell show, as ['ground truth', 'prediction'].
        columns: cells side by side; by default about as many as rows.

    Raises:
        ValueError: no cells.
    """
    if not cells:
        raise ValueError("sheet: no pictures")
    columns = columns or max(1, round(math.sqrt(len(cells) * 1.3 / len(captions))))
    gap, title, font = 10, 20, ImageFont.load_default(13)
    width = max(part.shape[1] for _, parts in cells for part in parts)
    height = max(part.shape[0] for _, parts in cells for part in parts)
    cell_width, cell_height = len(captions) * (width + 2) + gap, height + title + gap
    rows = math.ceil(len(cells) / columns)
    canvas = Image.new("RGB", (columns * cell_width + gap, rows * cell_height + gap), PAPER)
    pen = ImageDraw.Draw(canvas)
    for i, (name, parts) in enumerate(cells):
        left, top = gap + i % columns * cell_width, gap + i // columns * cell_height
        for j, (caption, part) in enumerate(zip(captions, parts, strict=True)):
            text = f"{name}  {caption}" if j == 0 else caption
            pen.text((left + j * (width + 2), top), _shortened(text, width, font), fill=INK, font=font)
            canvas.paste(Image.fromarray(part), (left + j * (width + 2), top + title))
    return np.asarray(canvas)


def sheet_columns(width: int | None, panels: int, side: int, gap: int = 10) -> tuple[int, int | None]:
    """Side of a picture and cells side by side, so that a sheet of cells of `panels` pictures is `width` wide at most.

    Pictures are `side` long, and smaller only where not even one cell would fit.
    """
    if width is None:
        return side, None
    cell = panels * (side + 2) + gap
    if cell + gap <= width:
        return side, (width - gap) // cell
    return max(16, (width - 2 * gap) // panels - 2), 1


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    while font.getlength(text) > width and len(text) > 4:
        text = "..." + text[4:]
    return text


@HOOKS.register_module()
class DrawHook(Hook):
    """Draws every prediction of a test run (`bestiary test --show-dir`).

    Args:
        out: folder for the pictures.
        score_thr: objects below are left out.
    """

    priority = "LOW"

    def __init__(self, out: str, score_thr: float = 0.3) -> None:
        self.out, self.score_thr = Path(out), score_thr

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        meta = getattr(runner.test_dataloader.dataset, "metainfo", {})
        classes = list(meta.get("classes") or ())
        colours = colours_for(max(len(classes), 1), meta.get("palette"))
        for sample in outputs:
            path = Path(sample.img_path)
            drawn = draw(read_picture(path), prediction_of(sample, self.score_thr), classes, colours)
            write_picture(self.out / f"{path.stem}.png", drawn)

    def after_test(self, runner) -> None:
        if is_main_process():
            runner.logger.info(f"drawn predictions: {self.out}")
