"""A config's model, built without memory for its weights and shown one picture: do its parts fit?"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn

from ...errors import InputError
from ...inputs.check_heads import head_classes
from ...inputs.checks import data_sets
from ...kernels import use_backend
from ..complexity import build_meta, without_weights
from ..fit import check_channels
from ..launch import explain
from ..quiet import quiet
from .keys import near

BY_DEFINITION = ("neighborhood_attention", "bi_level_routing_attention")  # the scan's is a loop, its operator serves
SIDE = 256  # of the picture, in pixels


class Looked(NamedTuple):
    """Mistakes and notes on a model; the model on the meta device, or None if it does not build."""

    mistakes: list[str]
    notes: list[str]
    model: nn.Module | None


def check_model(cfg: Config) -> Looked:
    """Build the config's model on the meta device and look at channels, levels, classes, and what is trained."""
    classes = [*_classes(cfg)]
    try:
        with quiet():
            model = _built(cfg)
    except Exception as error:  # whatever a constructor raises is said, not only what it means to say
        words = explain(error) or f"{type(error).__name__}: {error}"
        words = f"{_entry_of(error, cfg.get('model'))}: {words.removeprefix('config: ')}"
        return Looked([*classes, " ".join(words.split())], [], None)
    notes: list[str] = []
    found = [*classes, *_fit(model, notes), *_trained(model), *_custom_keys(cfg, model, notes)]
    synced = sum(isinstance(part, nn.SyncBatchNorm) for part in model.modules())
    if synced:
        notes.append(f"{synced} SyncBN layers: in training by one process, or on CPUs, they are plain batch norms")
    return Looked(found, notes, model)


def _built(cfg: Config) -> nn.Module:
    """The model on the meta device; by way of the CPU where a constructor asks for numbers (mmdet's Swin)."""
    try:
        return build_meta(cfg)
    except (RuntimeError, NotImplementedError) as error:
        if "meta" not in str(error):
            raise
    return MODELS.build(without_weights(cfg.model)).eval().to("meta")


def _entry_of(error: BaseException, model: Any) -> str:
    """The entry of the part whose constructor raised `error`: the innermost that the config names."""
    step, entry = error.__traceback__, "model"
    while step is not None:
        owner = step.tb_frame.f_locals.get("self")
        if step.tb_frame.f_code.co_name == "__init__" and owner is not None:
            entry = next((key for key in _entries(model, type(owner).__name__, "model")), entry)
        step = step.tb_next
    return entry


def _entries(config: Any, name: str, key: str) -> Iterator[str]:
    """Keys of the parts of a type of that name."""
    if isinstance(config, Mapping) and str(config.get("type")).split(".")[-1] == name:
        yield key
    parts = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for part, child in parts:
        yield from _entries(child, name, f"{key}.{part}")


def _classes(cfg: Config) -> Iterator[str]:
    """Heads for different numbers of classes; heads and `metainfo` that differ."""
    model = cfg.get("model")
    if not isinstance(model, Mapping):
        return
    said = False
    for split in ("train", "val", "test"):
        loader = cfg.get(f"{split}_dataloader")
        config = loader.get("dataset") if isinstance(loader, Mapping) else None
        for data in data_sets(config, f"{split}_dataloader.dataset", cfg) if isinstance(config, Mapping) else ():
            try:
                data.check_heads(model)
            except InputError as error:
                yield str(error)
                said = True
    numbers = {key: count for key, count in head_classes(model).items() if " + " not in key}
    if not said and len(set(numbers.values())) > 1 and "panoptic" not in repr(list(model)):
        given = ", ".join(f"{key}={count}" for key, count in numbers.items())
        yield f"{given}: heads of one model are for different numbers of classes; set them to the data's number"


def _fit(model: nn.Module, notes: list[str]) -> Iterator[str]:
    """Channels and levels from the backbone to the heads."""
    picture = torch.empty(1, _picture_channels(model), SIDE, SIDE, device="meta")
    maps = _shown(model.backbone, picture, notes) if hasattr(model, "backbone") else None
    if maps is None:
        return
    given, neck = maps, getattr(model, "neck", None)
    if isinstance(neck, nn.Module):
        maps = _shown(neck, given, notes)
    if maps is not None and isinstance(neck, nn.Module):  # it takes them, be it the last of them alone
        yield from _levels(model, maps)
        return
    try:
        check_channels(model, [each.shape[1] for each in given])
    except InputError as error:
        notes[:] = [note for note in notes if not note.startswith(type(neck).__name__)]
        yield str(error)
        return
    if maps is not None:
        yield from _levels(model, maps)


def _picture_channels(model: nn.Module) -> int:
    channels = getattr(model.backbone, "in_channels", 3) if hasattr(model, "backbone") else 3
    return channels if channels in (1, 2, 3, 4) else 3


def _shown(part: nn.Module, given: Any, notes: list[str]) -> list[Tensor] | None:
    """The maps that a part gives, or None where it is not a matter of maps, or computes what has no meta form."""
    try:
        with contextlib.ExitStack() as stack:
            for operator in BY_DEFINITION:
                stack.enter_context(use_backend("reference", operator))
            stack.enter_context(torch.no_grad())
            maps = part(given)
    except Exception as error:  # a picture of another size, an operator without a meta form: not a mistake yet
        first = str(error).splitlines()[0] if str(error) else ""
        notes.append(f"{type(part).__name__}: not tried without memory ({type(error).__name__}: {first})")
        return None
    maps = [maps] if isinstance(maps, Tensor) else maps
    fine = isinstance(maps, Sequence) and all(isinstance(each, Tensor) and each.ndim == 4 for each in maps)
    return list(maps) if fine else None


def _levels(model: nn.Module, maps: list[Tensor]) -> Iterator[str]:
    """Heads on several maps: their channels, number and strides."""
    channels, strides = [each.shape[1] for each in maps], [round(SIDE / each.shape[-1]) for each in maps]
    for entry in ("rpn_head", "bbox_head"):
        head = getattr(model, entry, None)
        wanted = getattr(head, "in_channels", None)
        generator = getattr(head, "prior_generator", None) or getattr(head, "anchor_generator", None)
        if not isinstance(head, nn.Module) or generator is None:
            continue
        if isinstance(wanted, int) and len(set(channels)) == 1 and wanted != channels[0]:
            yield (
                f"model.{entry}.in_channels: {wanted} does not fit the maps, which have {channels[0]}: "
                f"set model.{entry}.in_channels={channels[0]}"
            )
        steps = [step[0] if isinstance(step, tuple) else step for step in getattr(generator, "strides", ())]
        name = "anchor_generator" if "Anchor" in type(generator).__name__ else "strides"
        key = f"model.{entry}.{name}" + (".strides" if name == "anchor_generator" else "")
        if steps and len(steps) != len(maps):
            yield (
                f"{key}: {len(steps)} strides {steps} for {len(maps)} maps, whose strides are {strides}: set {key}="
                f"{strides}, or model.neck.num_outs={len(steps)}"
            )
        elif steps and any(
            max(a, b) > 1.9 * min(a, b) for a, b in zip(steps, strides, strict=True)
        ):  # SSD's are of other sizes
            yield f"{key}: {steps} for maps whose strides are {strides}: set {key}={strides}"
    roi = getattr(model, "roi_head", None)
    if isinstance(roi, nn.Module) and not hasattr(roi, "shared_head"):  # which changes the channels
        yield from _regions(roi, channels, strides)


def _regions(roi: nn.Module, channels: list[int], strides: list[int]) -> Iterator[str]:
    for kind in ("bbox", "mask"):
        extractors = _each(getattr(roi, f"{kind}_roi_extractor", None))
        for index, extractor in enumerate(extractors):
            key = f"model.roi_head.{kind}_roi_extractor" + (f".{index}" if len(extractors) > 1 else "")
            steps = list(getattr(extractor, "featmap_strides", ()))
            if steps and steps != strides[: len(steps)]:
                yield f"{key}.featmap_strides: {steps} for maps whose strides are {strides}: set it to {strides[:4]}"
            out = getattr(extractor, "out_channels", None)
            if steps and isinstance(out, int) and set(channels[: len(steps)]) != {out} and len(set(channels)) == 1:
                yield f"{key}.out_channels: {out}; the maps have {channels[0]}: set {key}.out_channels={channels[0]}"
            heads = _each(getattr(roi, f"{kind}_head", None))
            wanted = getattr(heads[index], "in_channels", None) if index < len(heads) else None
            if isinstance(wanted, int) and isinstance(out, int) and wanted != out:
                where = f"model.roi_head.{kind}_head" + (f".{index}" if len(heads) > 1 else "")
                yield f"{where}.in_channels: {wanted}; its regions have {out}: set {where}.in_channels={out}"


def _each(part: Any) -> list[nn.Module]:
    return list(part) if isinstance(part, nn.ModuleList) else [part] if isinstance(part, nn.Module) else []


def _trained(model: nn.Module) -> Iterator[str]:
    parameters = list(model.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield "model: every parameter is frozen, nothing would be trained; lower model.backbone.frozen_stages"


def _custom_keys(cfg: Config, model: nn.Module, notes: list[str]) -> Iterator[str]:
    """`paramwise_cfg.custom_keys` that no parameter's name has in it."""
    wrapper = cfg.get("optim_wrapper")
    settings = wrapper.get("paramwise_cfg") if isinstance(wrapper, Mapping) else None
    keys = list((settings.get("custom_keys") or {}) if isinstance(settings, Mapping) else {})
    names = [name for name, _ in model.named_parameters()]
    words = {word for name in names for word in (*name.split("."), name.split(".")[0], name.rsplit(".", 1)[0])}
    idle = [key for key in keys if not any(key in name for name in names)]
    for key in idle:
        if (hint := near(key, words, 0.8)) or idle == keys:
            where = f"optim_wrapper.paramwise_cfg.custom_keys[{key!r}]"
            yield f"{where}: no parameter has that in its name{hint}: correct it"
        else:
            notes.append(f"custom_keys[{key!r}]: no parameter has that in its name; it changes nothing here")
