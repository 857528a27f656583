"""Layer-wise learning rates, by the layers that a backbone names itself (as in BEiT, arXiv:2106.08254)."""

from collections.abc import Mapping
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from torch import nn

from ..backbones.base import undecayed
from ..errors import InputError
from ..registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """The further from the head, the lower the rate: lr * rate ** (top - layer), `top` being necks' and heads' layer.

    In a config: `optim_wrapper=dict(constructor='bestiary.LayerDecayConstructor',
    paramwise_cfg=dict(layer_decay_rate=0.9), ...)`. The layer of a parameter is told by its backbone, a module with
    `layer_of(name)`, `num_layers` and `no_weight_decay()`; all else is of layer `top = num_layers`.

    Weight decay is 0 for what `no_weight_decay` of the backbone and `NO_WEIGHT_DECAY` of other modules name, and for
    all parameters of one dimension, as `flat_decay_mult=0` has it; `no_weight_decay=False` in `paramwise_cfg` leaves
    that to mmengine's keys alone.

    mmengine's keys (`norm_decay_mult`, `bias_decay_mult`, `custom_keys`, ...) apply as ever. A learning rate from
    `lr_mult` is multiplied by the layer's factor, too. A `decay_mult` of `custom_keys` is kept as it is.

    Raises:
        InputError: no `layer_decay_rate` in 0..1; no module of the model tells its layers; no learning rate to scale.
    """

    def _validate_cfg(self) -> None:
        super()._validate_cfg()
        rate = self.paramwise_cfg.get("layer_decay_rate")
        if not isinstance(rate, int | float) or not 0 < rate <= 1:
            raise InputError(
                f"LayerDecayConstructor: optim_wrapper.paramwise_cfg.layer_decay_rate {rate!r} must be in 0..1, as 0.9"
            )
        if self.base_lr is None:
            raise InputError("LayerDecayConstructor: set optim_wrapper.optimizer.lr, the rate of the head")

    def add_params(self, params: list[dict], module: nn.Module, prefix: str = "", **kwargs: Any) -> None:
        """mmengine's groups, one a parameter, with the layer's rate."""
        if prefix:
            super().add_params(params, module, prefix=prefix, **kwargs)
            return
        rate = self.paramwise_cfg["layer_decay_rate"]
        layers, top = layers_of(module)
        begin = len(params)
        super().add_params(params, module, **kwargs)
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        still = _not_decayed(module) if self.paramwise_cfg.get("no_weight_decay", True) else set()
        for group in params[begin:]:
            name = names[id(group["params"][0])]
            group["lr"] = group.get("lr", self.base_lr) * rate ** (top - layers.get(name, top))
            if name in still and not self._has_custom_decay(name):
                group["weight_decay"] = 0.0

    def _has_custom_decay(self, name: str) -> bool:
        keys = [key for key in self.paramwise_cfg.get("custom_keys", {}) if key in name]
        # mmengine's choice: the longest, then the first of the alphabet.
        chosen = min(keys, key=lambda key: (-len(key), key), default=None)
        return chosen is not None and "decay_mult" in self.paramwise_cfg["custom_keys"][chosen]


def _backbones(model: nn.Module) -> dict[str, nn.Module]:
    """Outermost modules that tell the layers of their parameters, by name."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") or not outer for outer in found)
        if hasattr(module, "layer_of") and not inside:
            found[name] = module
    return found


def layers_of(model: nn.Module) -> tuple[dict[str, int], int]:
    """(layer of each parameter of the backbones by its name in `model`, layer of all others).

    Where there are several backbones, the ends of all of them meet below the head.

    Raises:
        InputError: no module of the model tells its layers.
    """
    backbones = _backbones(model)
    if not backbones:
        backbone = type(getattr(model, "backbone", model)).__name__
        raise InputError(
            f"LayerDecayConstructor: {backbone} does not tell its layers (layer_of, num_layers): take one of "
            "`bestiary list`, bestiary.TimmBackbone, or leave out optim_wrapper.constructor"
        )
    top = max(backbone.num_layers for backbone in backbones.values())
    layers = {}
    for prefix, backbone in backbones.items():
        for name, _ in backbone.named_parameters():
            full = f"{prefix}.{name}" if prefix else name
            layers[full] = backbone.layer_of(name) + top - backbone.num_layers
    return layers, top


def _not_decayed(model: nn.Module) -> set[str]:
    names = undecayed(model)
    for prefix, backbone in _backbones(model).items():
        names |= {f"{prefix}.{name}" if prefix else name for name in backbone.no_weight_decay()}
    return names


def need_readable_rates(schedulers: Any, wrapper: Any, scaled: bool) -> None:
    """Ask that no schedule writes over rates that differ by layer, by `lr_mult`, or are scaled to the batch.

    Args:
        schedulers: `param_scheduler` of a config.
        wrapper: the optimizer wrapper, built.
        scaled: whether `auto_scale_lr` has scaled its rates.

    Raises:
        InputError: OneCycleLR does, with its one `eta_max`.
    """
    steps = schedulers if isinstance(schedulers, list | tuple) else [schedulers]
    cycles = [step for step in steps if isinstance(step, Mapping) and "OneCycle" in str(step.get("type"))]
    if not cycles or isinstance(cycles[0].get("eta_max"), list | tuple) or not isinstance(wrapper, OptimWrapper):
        return
    rates = {group["lr"] for group in wrapper.optimizer.param_groups}
    if scaled or len(rates) > 1:
        why = "auto_scale_lr scales them" if scaled else f"they are {len(rates)}, by layer or by lr_mult"
        raise InputError(
            f"param_scheduler: OneCycleLR sets every learning rate to its own eta_max, and {why}: take another "
            "schedule (CosineAnnealingLR behind a LinearLR), or leave the other out"
        )
