"""What trials of a model share that run without a Runner: building, a training step, a prediction."""

from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from bestiary.errors import InputError
from bestiary.tools.synthetic import keep_a_few_unsure


def build(cfg: Config, scope: str = "mmengine") -> nn.Module:
    """The config's model with initial values, on the CPU; `scope` if the config has no `default_scope`."""
    init_default_scope(cfg.get("default_scope") or scope)
    hub = MessageHub.get_current_instance()  # a Runner counts there; TOOD, YOLOX and other losses ask
    for key, value in dict(epoch=0, iter=0, max_epochs=1, max_iters=1).items():
        hub.update_info(key, value)
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    model.init_weights()
    return model


def backward(model: nn.Module, batch: dict[str, list]) -> float:
    """Loss and gradients of a batch; returns the loss.

    Raises:
        InputError: a loss or gradient is not finite.
    """
    losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
    total, parts = model.parse_losses(losses)
    if wrong := [name for name, value in parts.items() if not torch.isfinite(torch.as_tensor(value)).all()]:
        raise InputError(f"{', '.join(wrong)}: not finite")
    total.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            raise InputError(f"the gradient of {name} is not finite")
    return float(total.detach())


def predict(model: nn.Module, batch: dict[str, list]) -> Any:
    """The prediction of an untrained model for the one picture of a batch.

    Raises:
        InputError: there is another number of predictions.
    """
    for part in model.modules():
        keep_a_few_unsure(getattr(part, "test_cfg", None) or {})
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch, training=False), mode="predict")
    if len(results) != 1:
        raise InputError(f"{len(results)} predictions for one picture")
    return results[0]
