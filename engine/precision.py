"""How numbers are kept and computed: mixed precision, memory order, compiled parts, averaged weights, each by one key.

Keys at the top of a config, and the options of `bestiary train` that set them:

- `amp`: 'bf16' or 'fp16'; True is what the machine does best, float16 on a GPU and bfloat16 on a CPU;
- `channels_last`: True keeps weights of convolutions and pictures in the order (B, H, W, C);
- `compile`: 'backbone' or 'model'; or a dict with that as `target` and arguments of torch.compile; True and a dict
  without a target are mmengine's, which compile the training step;
- `ema`: momentum of the averaged weights, or a dict of arguments of `EMAHook`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from torch import Tensor, nn

from ..errors import InputError

AMP = {"bf16": "bfloat16", "fp16": "float16"}
MIXED = {  # optimizer wrapper -> the one of mixed precision
    "OptimWrapper": "AmpOptimWrapper",
    "AdaptiveClipOptimWrapper": "AmpAdaptiveClipOptimWrapper",
}
PARTS = ("backbone", "model")
EMA_MOMENTUM = 0.0002  # mmengine's: the share of the new weights


def use_amp(cfg: Config, on_gpu: bool, kind: str | bool = True) -> str:
    """Make `cfg` train in mixed precision; returns what was done, in words.

    Args:
        cfg: the config; its `optim_wrapper` becomes the one of mixed precision.
        on_gpu: whether it will run on a GPU.
        kind: 'bf16', which needs no loss scale and gets none; 'fp16', with a dynamic loss scale unless the config has
            another; True is mmengine's default on a GPU (float16) unless the config names a dtype, bfloat16 on a CPU.

    Raises:
        InputError: no such kind; float16 on a CPU; the config's optimizer wrapper has no mixed-precision counterpart.
    """
    if kind is not True and kind not in AMP:
        raise InputError(f"amp: {kind!r} is none of {', '.join(AMP)}; set amp='bf16' or amp='fp16'")
    if kind == "fp16" and not on_gpu:
        raise InputError("amp: float16 does not train on a CPU: take bf16 (--amp bf16)")
    wrapper = cfg.get("optim_wrapper")
    given = wrapper.get("type", "OptimWrapper") if wrapper else None
    scope, _, name = str(given).rpartition(".")
    if name not in (*MIXED, *MIXED.values()):
        takes = " or ".join(repr(one) for one in MIXED)
        raise InputError(f"--amp: it takes optim_wrapper.type={takes}, the config has {given!r}: leave --amp out")
    wrapper.type = f"{scope}.{MIXED.get(name, name)}" if scope else MIXED.get(name, name)
    if kind in AMP:
        wrapper.dtype = AMP[kind]
    elif not on_gpu:
        wrapper.dtype = "bfloat16"
    dtype = wrapper.get("dtype") or "float16"
    if kind == "bf16":
        wrapper.loss_scale = dict(enabled=False)
    else:
        wrapper.setdefault("loss_scale", "dynamic")
    return f"mixed precision: optim_wrapper.type={wrapper.type!r}, {dtype}{'' if on_gpu else ' on the CPU'}"


def ema_hook(given: float | bool | Mapping[str, Any]) -> dict[str, Any]:
    """The hook's config for the key `ema`.

    Raises:
        InputError: the momentum is not in 0..1.
    """
    settings = dict(given) if isinstance(given, Mapping) else {} if given is True else dict(momentum=given)
    momentum = settings.setdefault("momentum", EMA_MOMENTUM)
    if not isinstance(momentum, float) or not 0 < momentum < 1:
        raise InputError(
            f"ema: momentum {momentum!r} must be in 0..1, the share of the new weights in the average: 0.0002 averages "
            "over some 5000 steps"
        )
    return dict(type="bestiary.EMAHook", **settings)


def to_channels_last(model: nn.Module) -> nn.Module:
    """Weights of 2D convolutions in the order of (B, H, W, C), and pictures as they leave the data preprocessor.

    Shapes, keys and, but for rounding, numbers stay.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    if (preprocessor := getattr(model, "data_preprocessor", None)) is not None:
        preprocessor.register_forward_hook(_turn_pictures)
    return model


def _turn_pictures(_: nn.Module, __: Any, data: Any) -> Any:
    inputs = data.get("inputs") if isinstance(data, dict) else None
    if isinstance(inputs, Tensor) and inputs.ndim == 4:
        data["inputs"] = inputs.contiguous(memory_format=torch.channels_last)
    return data


def part_to_compile(given: Any) -> tuple[str, dict[str, Any]] | None:
    """(part, arguments of torch.compile) for the key `compile`; None if it is mmengine's to read.

    Raises:
        InputError: there is no such part.
    """
    settings = dict(target=given) if isinstance(given, str) else dict(given) if isinstance(given, Mapping) else {}
    target = settings.pop("target", None)
    if target is None:
        return None
    if target not in PARTS:
        raise InputError(
            f"compile: {target!r} is none of {', '.join(PARTS)}; set compile='backbone' or compile='model'"
        )
    return target, settings


def compile_part(model: nn.Module, part: str, settings: Mapping[str, Any]) -> None:
    """Compile in place, by `nn.Module.compile`: keys of state dicts stay as they are.

    Raises:
        InputError: the model has no backbone.
    """
    model = model.module if is_model_wrapper(model) else model
    if part == "backbone" and not isinstance(getattr(model, "backbone", None), nn.Module):
        raise InputError(f"compile='backbone': {type(model).__name__} has no backbone: set compile='model'")
    (model.backbone if part == "backbone" else model).compile(**settings)
