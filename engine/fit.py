"""Do the parts fit? Weights that a config names, channels of backbone, neck and heads: asked before training."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ..backbones.pretrained import is_pretrained
from ..backbones.reading import need_checkpoint
from ..errors import InputError
from .configs import SHIPPED, shipped_configs


def check_weights(model: Any, entry: str = "model") -> None:
    """Ask that the files are there that `init_cfg=dict(type='Pretrained', checkpoint=...)` names, anywhere in a model.

    Args:
        model: its config, `cfg.model`.
        entry: name of `model` in the whole config, for messages.

    Raises:
        InputError: one is not; it says which entry names it, and the config that ships and writes it, if one does.
    """
    if is_pretrained(model) and isinstance(path := model.get("checkpoint"), str):
        try:
            need_checkpoint(path)
        except InputError as error:
            maker = _writer_of(path)
            make = f"`bestiary train {maker}` writes it; or " if maker else ""
            raise InputError(
                f"{error}: {make}set {entry}.checkpoint to a file or to an address such as timm://MODEL, "
                f"or {entry}=None to start without"
            ) from error
    parts = model.items() if isinstance(model, Mapping) else enumerate(model) if isinstance(model, list | tuple) else ()
    for name, part in parts:
        check_weights(part, f"{entry}.{name}")


def check_class_weights(model: Any, entry: str = "model") -> None:
    """Ask that losses with a list of class weights have one a class of their head; mmdet's may have a background's.

    Raises:
        InputError: one has not; cross-entropy would end in an error of torch's that names neither.
    """
    if isinstance(model, Mapping) and isinstance(classes := model.get("num_classes"), int):
        for name, loss in model.items():
            losses = enumerate(loss) if isinstance(loss, list | tuple) else [(None, loss)]
            for index, part in losses:
                weights = part.get("class_weight") if isinstance(part, Mapping) else None
                if isinstance(weights, list | tuple) and len(weights) not in (classes, classes + 1):
                    where = f"{entry}.{name}" + ("" if index is None else f".{index}")
                    raise InputError(
                        f"{where}.class_weight: {len(weights)} weights for {classes} classes "
                        f"({entry}.num_classes={classes}): give one for each class, or leave it out"
                    )
    parts = model.items() if isinstance(model, Mapping) else enumerate(model) if isinstance(model, list | tuple) else ()
    for name, part in parts:
        check_class_weights(part, f"{entry}.{name}")


def _writer_of(checkpoint: str) -> str | None:
    """The config that ships and has the checkpoint's folder as its work_dir."""
    line = f'work_dir = "{Path(checkpoint).parent.as_posix()}"'
    for name in shipped_configs():
        if line in (SHIPPED / f"{name}.py").read_text(encoding="utf-8").splitlines():
            return name
    return None


def check_channels(model: nn.Module, given: Sequence[int] | None = None) -> None:
    """Compare `in_channels` of neck and heads with the channels of the backbone's maps.

    Args:
        model: a classifier, detector or segmentor.
        given: channels of the maps; those that the backbone's `feature_info` promises if None. A backbone without
            `feature_info` (mmdet's and mmseg's own) then passes, as does a neck without `in_channels`.

    Raises:
        InputError: they differ; it names both, and the config entry to set.
    """
    backbone = getattr(model, "backbone", None)
    if given is None:
        info = getattr(backbone, "feature_info", None)
        if info is None:
            return
        given = info.channels()
    given = list(given)
    who = _name(backbone)
    if (neck := getattr(model, "neck", None)) is not None:
        wanted = _channels(neck)
        if wanted is not None and wanted != given:
            raise InputError(
                f"{type(neck).__name__}: in_channels {wanted} do not fit {who}, which gives {given}: "
                f"set model.neck.in_channels={given}"
            )
        return
    head = getattr(model, "head", None)
    if head is not None and (wanted := _channels(head)) is not None and wanted != given[-1:]:
        raise InputError(
            f"{type(head).__name__}: in_channels {wanted[0]} does not fit {who}, whose last map has {given[-1]}: "
            f"set model.head.in_channels={given[-1]}"
        )
    for entry, head in _heads(model):
        wanted, index = _channels(head), getattr(head, "in_index", None)
        if wanted is None or index is None:
            continue
        levels = [index] if isinstance(index, int) else list(index)
        if any(not -len(given) <= level < len(given) for level in levels):
            raise InputError(
                f"{type(head).__name__}: in_index {index} is out of range for {who}, which gives {len(given)} maps"
            )
        fitting = [given[level] for level in levels]
        if getattr(head, "input_transform", None) == "resize_concat":
            wanted, fitting = [sum(wanted)], [sum(fitting)]
        if wanted != fitting:
            raise InputError(
                f"{type(head).__name__}: in_channels {wanted} do not fit {who}, which gives {fitting} at in_index "
                f"{index}: set {entry}.in_channels={fitting if len(fitting) > 1 else fitting[0]}"
            )


def _name(backbone: nn.Module) -> str:
    """`PoolFormer 's12'`, `TimmBackbone 'resnet18'`, or the class alone."""
    for attribute in ("arch", "model_name"):
        if (value := getattr(backbone, attribute, None)) is not None:
            return (
                f"{type(backbone).__name__} {value!r}"
                if isinstance(value, str)
                else f"{type(backbone).__name__} {value}"
            )
    return type(backbone).__name__


def _channels(module: Any) -> list[int] | None:
    """`in_channels` as a list; None if the module has none, or not of whole numbers."""
    channels = getattr(module, "in_channels", None)
    if isinstance(channels, int):
        return [channels]
    if isinstance(channels, Sequence) and channels and all(isinstance(c, int) for c in channels):
        return list(channels)
    return None


def _heads(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for entry in ("decode_head", "auxiliary_head"):
        head = getattr(model, entry, None)
        if isinstance(head, nn.ModuleList):
            yield from ((f"model.{entry}[{i}]", part) for i, part in enumerate(head))
        elif isinstance(head, nn.Module):
            yield f"model.{entry}", head
