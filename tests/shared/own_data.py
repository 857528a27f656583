"""A person's data as they come: odd class names, ids with gaps, pictures of two sizes, nothing else said."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = {3: "0 dolls", 17: "Käse & Brot", 90: "type"}  # category id: name


def make_own(root: Path, pictures: int = 10) -> Path:
    """`root`/ann.json (masks), boxes.json (none), pics, labels (0 background, 1, 2), folders/{a, b c}."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for folder in ("pics", "labels", "folders/a", "folders/b c"):
        (root / folder).mkdir(parents=True)
    for number in range(pictures):
        height, width = (60, 80) if number % 2 else (80, 60)
        picture, labels = rng.integers(0, 90, (height, width, 3), dtype=np.uint8), np.zeros((height, width), np.uint8)
        images.append(dict(id=100 + 7 * number, file_name=f"p{number}.jpg", width=width, height=height))
        for kind in range(2):
            x, y, w, h = (int(rng.integers(*span)) for span in ((0, 30), (0, 30), (8, 24), (8, 24)))
            picture[y : y + h, x : x + w], labels[y : y + h, x : x + w] = 200 - 60 * kind, kind + 1
            annotations.append(
                dict(
                    id=len(annotations) + 5,
                    image_id=100 + 7 * number,
                    category_id=list(NAMES)[(number + kind) % 3],
                    bbox=[x, y, w, h],
                    area=w * h,
                    segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
                )
            )
        Image.fromarray(picture).save(root / "pics" / f"p{number}.jpg")
        Image.fromarray(labels).save(root / "labels" / f"p{number}.png")
        Image.fromarray(picture).save(root / "folders" / ("a" if number % 2 else "b c") / f"p{number}.jpg")
    content = dict(images=images, annotations=annotations, categories=[dict(id=i, name=n) for i, n in NAMES.items()])
    (root / "ann.json").write_text(json.dumps(content))
    for entry in annotations:
        del entry["segmentation"]
    (root / "boxes.json").write_text(json.dumps(content))
    return root
