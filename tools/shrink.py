"""A config made small by its own options, for a step of a second on a CPU: fewer blocks, channels, boxes, queries."""

from typing import Any

from mmengine.config import Config, ConfigDict

from bestiary.backbones.mhs_vm import MHSVMEncoder
from bestiary.backbones.names import FAMILIES
from bestiary.engine.complexity import without_weights

CLASSES = {family.__name__: family for family in (*FAMILIES, MHSVMEncoder)}
FOUR = dict(depths=(1, 1, 1, 1), dims=(32, 64, 96, 128))
HEADS = dict(num_heads=(1, 2, 3, 4))
SMALL = {  # by class; what is not here is FOUR
    "BiFormer": FOUR | dict(head_dim=16),
    "DaViT": FOUR | HEADS,
    "NAT": FOUR | HEADS,
    "DiNAT": FOUR | HEADS,
    "DiNATs": FOUR | HEADS,
    "IsotropicNAT": dict(depths=(2,), dims=(32,), num_heads=(1,)),
    "IsotropicDiNAT": dict(depths=(2,), dims=(32,), num_heads=(1,)),
    "ViTRPB": dict(depths=(2,), dims=(32,), num_heads=(1,)),
    "MaxViT": FOUR | dict(stem_dims=(16, 16)),
    "MHSVM": FOUR | dict(d_state=2),
    "MHSVMEncoder": FOUR | dict(d_state=1),
    "MobileNetV2": FOUR | dict(dims=(32, 64, 96, 160), widths={}, stem_dims=(16, 16)),  # which its ECA has kernels for
    "ResNet": FOUR,
    "SHViT": dict(depths=(1, 1, 1), dims=(32, 48, 64), partial_dims=(8, 12, 16)),
}
PICTURE = 64, 96  # height and width that a shrunken model is tried with
SQUARE = 64, 64  # a classifier


def shrink(cfg: Config) -> Config:
    """`cfg` with a small backbone of the same family, short transformers and few boxes, without weights to load.

    Heads, necks, losses and what a backbone's keywords say (dilations, windows, regions) stay as they are.
    """
    model = without_weights(cfg.model)
    backbone = model.backbone
    family = CLASSES[backbone.type.removeprefix("bestiary.")]
    before = family.ARCHS[backbone.arch]["dims"] if isinstance(backbone.arch, str) else backbone.arch["dims"]
    changes = SMALL.get(family.__name__, FOUR)
    if len(before) == 1:  # an isotropic network, also one of FocalNet's archs
        changes = {key: value[:1] for key, value in changes.items()} | dict(depths=(2,))
    backbone.update(changes)
    if family.__name__ == "RandFormer":
        backbone.img_size = SQUARE
    widths = dict(zip(before, changes["dims"], strict=True))
    heads = ("head", "decode_head", "auxiliary_head", "panoptic_head", "mask_head")
    for part in ("neck",) if model.get("neck") else heads:  # behind a neck a head has the neck's channels
        for entry in _each(model.get(part)):
            if "in_channels" in entry:
                entry.in_channels = _narrowed(entry.in_channels, widths)
    _shorten(model)
    if isinstance(model.get("data_preprocessor"), dict):
        if "size" in model.data_preprocessor:
            model.data_preprocessor.size = PICTURE
        model.data_preprocessor.pop("batch_augments", None)  # they scale and pad to the sizes of real pictures
    cfg.model = model
    return cfg


def _each(part: Any) -> list[ConfigDict]:
    return list(part) if isinstance(part, list | tuple) else [] if part is None else [part]


def _narrowed(channels: Any, widths: dict[int, int]) -> Any:
    """Channels of the backbone's maps as they are now; others as they were."""
    if isinstance(channels, int):
        return widths.get(channels, channels)
    return [widths.get(width, width) for width in channels]


def _shorten(node: Any) -> None:
    """Fewer proposals, samples, queries and transformer layers, wherever the model has them."""
    few = dict(nms_pre=40, max_per_img=12, num_dn_queries=4)
    if isinstance(node, dict):
        for key, value in few.items():
            if isinstance(node.get(key), int) and node[key] > value:
                node[key] = value
        if isinstance(node.get("num_queries"), int):
            node["num_queries"] = 12
        if isinstance(node.get("num_proposals"), int):
            node["num_proposals"] = 12
        if isinstance(node.get("num_points"), int) and node["num_points"] > 500:  # Mask2Former's
            node["num_points"] = 128
        sampler = node.get("sampler")
        if isinstance(sampler, dict) and isinstance(sampler.get("num"), int):
            sampler["num"] = 16
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ():
        _shorten(child)
