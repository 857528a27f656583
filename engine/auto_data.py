"""`classes = "auto"`: a config made to fit a person's data, by what the data themselves say.

Such a config names `annotations` and `pictures` (objects), `pictures` and `labels` (regions) or `pictures` (class
folders), and nothing else of the data; `val_annotations`, `val_pictures`, `val_labels` where these are apart. Without
them every fifth sample is held out and judged by.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config

from ..errors import InputError
from ..inputs.auto_classes import Folders, Objects, Regions, folders_of, objects_of, regions_of
from ..inputs.check_heads import head_classes

ENTRIES = {  # kind: the entries that name the data, in the order in which the command line takes them
    "objects": ("annotations", "pictures"),
    "regions": ("pictures", "labels"),
    "folders": ("pictures",),
}
HELD_OUT = 5  # every fifth sample, or of fewer the last
STEP = 32  # pixels; sides of pictures are multiples
RATIO_LIMIT = 4.0  # anchors of height : width up to 2 match boxes up to here at an IoU of 0.5


def wants_data(cfg: Mapping) -> bool:
    """Whether the config is to be made to fit data."""
    return cfg.get("classes") == "auto"


def kind_of(cfg: Mapping) -> str:
    """'objects', 'regions' or 'folders', by the entries that the config has."""
    return next(kind for kind, entries in ENTRIES.items() if all(entry in cfg for entry in entries))


def name_data(cfg: Config, paths: Sequence[str]) -> None:
    """Write the paths of `--data` into the config.

    Raises:
        InputError: the config takes none, or another number of them.
    """
    if not wants_data(cfg):
        raise InputError(
            f"--data {' '.join(paths)}: this config names its data itself; take one of mydata/, as --help says"
        )
    entries = ENTRIES[kind_of(cfg)]
    if len(paths) not in (len(entries), 2 * len(entries)):
        wanted = " ".join(entry.upper() for entry in entries)
        raise InputError(
            f"--data: {len(paths)} paths; this config takes {wanted}, or these and the same of the validation data"
        )
    for entry, path in zip((*entries, *(f"val_{entry}" for entry in entries)), paths, strict=False):
        cfg[entry] = path


def fit_to_data(cfg: Config) -> list[str]:
    """Set classes, heads, sizes, anchors and data sets of a config with `classes = "auto"`; what was done, in words.

    Anchors: the smallest is as large as the tenth of the boxes from below, after the pictures are resized, unless the
    config's own already reach from there to the tenth from above. Where a twentieth of the boxes is longer than 4 : 1,
    anchors of 4 : 1 are added. Pictures smaller than the config's are not enlarged.

    Raises:
        InputError: the data are not named, or do not fit; see `objects_of`, `regions_of`, `folders_of`.
    """
    kind = kind_of(cfg)
    entries = ENTRIES[kind]
    if missing := [entry for entry in entries if not cfg.get(entry)]:
        given = " ".join(entry.upper() for entry in entries)
        raise InputError(
            f"the config has no {', '.join(missing)}: name your data by `bestiary train CONFIG --data {given}`; of "
            "a model that is trained, take the config in its work directory"
        )
    if kind == "objects":
        found = objects_of(cfg.annotations, "annotations")
    elif kind == "regions":
        found = regions_of(cfg.pictures, cfg.labels, cfg.get("class_names"), ("pictures", "labels"))
    else:
        found = folders_of(cfg.pictures, "pictures")
    notes = [f"{len(found.classes)} classes: {', '.join(found.classes[:8])}{', ...' if len(found.classes) > 8 else ''}"]
    scale = _set_size(cfg, found.longest)
    if isinstance(found, Objects):
        notes += [*_without_masks(cfg, found), *_fit_anchors(cfg, found, scale)]
    elif isinstance(found, Folders):
        cfg.val_evaluator.topk = (1, 5) if len(found.classes) > 5 else (1,)
    cfg.test_evaluator = cfg.val_evaluator
    _set_classes(cfg, found.classes)
    _set_data(cfg, kind, found)
    cfg.classes = found.classes
    return notes


def _set_classes(cfg: Config, classes: tuple[str, ...]) -> None:
    for key in head_classes(cfg.model):
        parent, _, name = key.removeprefix("model.").rpartition(".")
        place: Any = cfg.model
        for part in parent.split(".") if parent else ():
            place = place[int(part)] if part.isdigit() else place[part]
        place[name] = len(classes)


def _set_data(cfg: Config, kind: str, found: Objects | Regions | Folders) -> None:
    """The data sets of the three splits: the person's two, or one in two parts."""
    apart = bool(cfg.get(f"val_{ENTRIES[kind][0]}"))
    for split in ("train", "val", "test"):
        before = "val_" if apart and split != "train" else ""
        paths = {entry: cfg[f"{before}{entry}"] for entry in ENTRIES[kind] if cfg.get(f"{before}{entry}")}
        if lacking := [f"{before}{entry}" for entry in ENTRIES[kind] if entry not in paths]:
            raise InputError(
                f"the config has no {', '.join(lacking)}, and val_{ENTRIES[kind][0]}: give both or neither"
            )
        data = cfg[f"{split}_dataloader"].dataset
        data.data_root = ""
        if kind == "objects":
            data.update(ann_file=paths["annotations"], data_prefix=dict(img=paths["pictures"]))
            data.metainfo = dict(classes=found.classes)
        elif kind == "regions":
            data.update(data_prefix=dict(img_path=paths["pictures"], seg_map_path=paths["labels"]))
            data.update(img_suffix=found.picture_suffix, seg_map_suffix=found.label_suffix)
            data.metainfo = dict(classes=found.classes, palette=_colours(len(found.classes)))
        else:
            data.update(data_prefix=paths["pictures"], classes=list(found.classes))
        if not apart:
            if found.count < 2:
                raise InputError(
                    f"{paths['pictures']}: one picture cannot be held out; give validation data by val_pictures"
                )
            cfg[f"{split}_dataloader"].dataset = dict(
                type="bestiary.HeldOut",
                dataset=data.to_dict(),
                every=min(HELD_OUT, found.count),
                held_out=split != "train",
            )


def _steps(cfg: Config) -> Iterator[dict]:
    for split in ("train", "val", "test"):
        yield from cfg[f"{split}_dataloader"].dataset.pipeline


def _set_size(cfg: Config, longest: int) -> float:
    """Resize to the side that the config says, or to the longest side of the data; what that does to `longest`."""
    side = min(cfg.side, math.ceil(longest / STEP) * STEP)
    for step in _steps(cfg):
        if step.type in ("Resize", "RandomResize", "RandomChoiceResize") and "scale" in step:
            step.scale = (side, side)
        for part in step.get("transforms", ()) if step.type == "TorchvisionTransform" else ():
            if part.type == "Resize":
                part.size = [side, side]
    if "size" in cfg.model.get("data_preprocessor", {}):
        cfg.model.data_preprocessor.size = (side, side)
    return side / longest


def _without_masks(cfg: Config, found: Objects) -> list[str]:
    """Take the mask head out where the data have boxes alone."""
    roi = cfg.model.get("roi_head") or {}
    if found.with_masks or not roi.get("mask_head"):
        return []
    roi.mask_head = roi.mask_roi_extractor = None
    for step in _steps(cfg):
        if step.get("with_mask"):
            step.with_mask = False
    cfg.val_evaluator.metric = "bbox"
    return ["objects without masks: the mask head is left out"]


def _fit_anchors(cfg: Config, found: Objects, scale: float) -> list[str]:
    """See `fit_to_data`."""
    head = cfg.model.get("rpn_head") or cfg.model.bbox_head
    anchors = head.anchor_generator
    key = "octave_base_scale" if "octave_base_scale" in anchors else "scales"
    base = anchors[key] if key == "octave_base_scale" else min(anchors.scales)
    octaves = 2 ** ((anchors.scales_per_octave - 1) / anchors.scales_per_octave) if key == "octave_base_scale" else 1
    small, large = np.quantile(np.sqrt(found.boxes.prod(axis=1)) * scale, (0.1, 0.9))
    notes = []
    least, most = base * min(anchors.strides), base * max(anchors.strides) * octaves
    # A box matches an anchor of its shape at an IoU of 0.5 from 0.71 to 1.41 of its side.
    if small < 0.71 * least or large > 1.41 * most:
        fitted = max(1.0, round(float(small) / min(anchors.strides), 1))
        anchors[key] = fitted if key == "octave_base_scale" else [fitted]
        reach = f"{fitted * min(anchors.strides):.0f} to {fitted * max(anchors.strides) * octaves:.0f}"
        notes.append(
            f"anchors of {reach} pixels, for boxes of {small:.0f} to {large:.0f} (was {least:.0f} to {most:.0f})"
        )
    shapes = np.quantile(found.boxes[:, 1] / found.boxes[:, 0], (0.05, 0.95))
    ratios = [float(ratio) for ratio in anchors.ratios]
    if shapes[0] < 1 / RATIO_LIMIT and min(ratios) > 1 / RATIO_LIMIT:
        ratios.insert(0, 1 / RATIO_LIMIT)
    if shapes[1] > RATIO_LIMIT and max(ratios) < RATIO_LIMIT:
        ratios.append(RATIO_LIMIT)
    if len(ratios) > len(anchors.ratios):
        anchors.ratios = ratios
        notes.append(
            f"anchors of height : width {', '.join(f'{ratio:g}' for ratio in ratios)}, for boxes that are as long"
        )
    return notes


def _colours(count: int) -> list[list[int]]:
    """As many colours, (red, green, blue) in 0..255, far from one another in hue."""
    hues = (np.arange(count) * 0.618034) % 1.0
    waves = [(np.cos(2 * np.pi * (hues - shift)) + 1) / 2 for shift in (0.0, 1 / 3, 2 / 3)]
    return (np.stack(waves, axis=1) * 200 + 40).astype(int).tolist()
