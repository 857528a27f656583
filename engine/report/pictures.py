"""The best and worst predictions beside the truth, as pictures inside the page."""

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ...errors import InputError
from ..drawing import Picture, colours_for, draw, read_picture
from ..predictions import Prediction, Segmentation, name_of
from .evidence import Evidence
from .extremes import unpack_labels, unpack_objects

DRAWN = 420  # pixels of the longer side of a picture with objects or regions
PLAIN = 176  # of one with classes alone
NAMED = 5  # classes of a picture


def data_uri(picture: Picture) -> str:
    """(H, W, 3) as a WebP inside a URI."""
    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "WEBP", quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode("ascii")


def picture_cards(evidence: Evidence, entries: list[dict[str, Any]]) -> str:
    """A figure a picture."""
    names = [str(name) for name in evidence.classes]
    if evidence.kind in ("classes", "labels"):
        cards = [_class_card(evidence, entry, names) for entry in entries]
        return f'<div class="cards small">{"".join(cards)}</div>'
    colours = colours_for(max(len(names), 1), evidence.palette)
    cards = [_drawn_card(evidence, entry, names, colours) for entry in entries]
    return f'<div class="cards">{"".join(cards)}</div>'


def _original(evidence: Evidence, entry: dict[str, Any], size: tuple[int, int]) -> tuple[Picture, str]:
    """The picture, or grey of a size (H, W) where it is gone, and a word about that."""
    try:
        return read_picture(Path(evidence.folder) / entry["path"]), ""
    except InputError:
        return np.full((*size, 3), 128, np.uint8), " (the picture is no longer there)"


def _more(things: list) -> list[str]:
    return [f"and {len(things) - NAMED} more"] if len(things) > NAMED else []


def _class_card(evidence: Evidence, entry: dict[str, Any], names: list[str]) -> str:
    picture, gone = _original(evidence, entry, (48, 48))
    height, width = picture.shape[:2]
    factor = PLAIN / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    scaled = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)
    truth = ", ".join([name_of(names, k) for k in entry["truth"][:NAMED]] + _more(entry["truth"])) or "none"
    kinds = ["right" if label in entry["truth"] else "wrong" for label, _ in entry["found"]]
    if evidence.kind == "classes":  # the best is the answer, the others are what it might have been
        kinds[1:] = ["also"] * len(kinds[1:])
    found = [
        f'<span class="{state}">{escape(name_of(names, label))} {score:.2f}</span>'
        for state, (label, score) in zip(kinds[:NAMED], entry["found"][:NAMED], strict=True)
    ] + _more(entry["found"])
    said = ", ".join(f"{name_of(names, label)} {score:.2f}" for label, score in entry["found"]) or "none"
    name = Path(entry["path"]).name
    return (
        f'<figure class="card"><img src="{data_uri(scaled)}" width="{size[0]}" height="{size[1]}" '
        f'alt="{escape(name)}: truth {escape(truth)}, prediction {escape(said)}">'
        f'<figcaption><span class="row">truth <b>{escape(truth)}</b></span>'
        f'<span class="row">says {" ".join(found) or "none"}</span>'
        f"<small>{escape(name)}{gone}</small></figcaption></figure>"
    )


def _drawn_card(evidence: Evidence, entry: dict[str, Any], names: list[str], colours: list) -> str:
    parts: list[Prediction]
    if evidence.kind == "objects":
        parts = [unpack_objects(entry[key]) for key in ("truth", "found")]
        boxes = np.concatenate([part.boxes for part in parts])
        masks = next((part.masks for part in parts if part.masks is not None), None)
        size = (
            masks.shape[1:]
            if masks is not None
            else (int(boxes[:, 3].max(initial=64)), int(boxes[:, 2].max(initial=64)))
        )
        objects, found = len(parts[0].labels), len(parts[1].labels)
        words = f"{entry['right']} of {objects} objects right; {found - entry['right']} other detections"
    else:
        parts = [unpack_labels(entry[key]) for key in ("truth", "found")]
        size = parts[0].labels.shape
        words = f"{entry['right']:.1%} of the pixels right"
    picture, gone = _original(evidence, entry, size)
    if evidence.kind == "regions" and picture.shape[:2] != parts[0].labels.shape:
        height, width = picture.shape[:2]
        parts = [
            Segmentation(cv2.resize(p.labels.astype(np.uint16), (width, height), interpolation=cv2.INTER_NEAREST))
            for p in parts
        ]
    name = Path(entry["path"]).name
    drawn = [data_uri(draw(picture, part, names, colours, DRAWN)) for part in parts]
    measure = "quality" if evidence.kind == "objects" else "mean IoU"
    pair = "".join(
        f'<div><span class="which">{which}</span><img src="{uri}" alt="{escape(name)}: {which}"></div>'
        for which, uri in zip(("truth", "prediction"), drawn, strict=True)
    )
    return (
        f'<figure class="card pair"><div class="two">{pair}</div><figcaption>{measure} {entry["quality"]:.2f}: {words}'
        f"<small>{escape(name)}{gone}</small></figcaption></figure>"
    )
