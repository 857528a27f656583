"""What the two sweeps over packaged configs share."""

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import bestiary  # noqa: F401  (it mends what the sweeps import)


def no_downloads(node):
    """Take pretrained weights out of a config, in place."""
    if isinstance(node, dict):
        if isinstance(node.get("init_cfg"), dict) and "checkpoint" in node["init_cfg"]:
            node["init_cfg"] = None
        for key in ("pretrained", "teacher_ckpt"):
            if key in node:
                node[key] = None
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else ():
        no_downloads(child)


@pytest.fixture
def packaged():
    """packaged('mmdet', 'fcos/x.py', changes of the model): model and config, as a Runner on a CPU makes them."""
    from mmengine.config import Config
    from mmengine.logging import MessageHub
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, DefaultScope

    with DefaultScope.overwrite_default_scope("mmengine"):  # ends with the test, whatever scope a sweep took

        def build(package, path, changes=None):
            home = Path(importlib.import_module(package).__file__).parent
            importlib.import_module(f"{package}.utils").register_all_modules(init_default_scope=False)
            DefaultScope.get_instance(f"{package}-sweep", scope_name=package)
            hub = MessageHub.get_current_instance()  # a Runner counts there; TOOD, YOLOX and others ask
            hub.update_info("epoch", 0)
            hub.update_info("iter", 0)
            hub.update_info("max_epochs", 1)
            hub.update_info("max_iters", 1)
            torch.manual_seed(0)
            np.random.seed(0)
            config = Config.fromfile(home / ".mim" / "configs" / path)
            no_downloads(config.model)
            config.merge_from_dict({f"model.{key}": value for key, value in (changes or {}).items()})
            model = revert_sync_batchnorm(MODELS.build(config.model))
            model.init_weights()
            return model, config

        yield build


@pytest.fixture
def train_step():
    """One loss with backward: the losses are finite, so are all gradients, and they reach backbone and head."""

    def run(model, batch):
        model.train()
        for layer in model.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.momentum = 1.0  # a prediction then sees the statistics of this batch, not those of no picture
        losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
        total, parts = model.parse_losses(losses)
        assert all(torch.isfinite(torch.as_tensor(value)).all() for value in parts.values()), parts
        total.backward()
        reached = {True: 0.0, False: 0.0}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all(), name
                reached[name.startswith("backbone.")] += parameter.grad.abs().sum().item()
        assert reached[True] > 0 and reached[False] > 0, f"gradients in backbone, head: {reached}"
        return parts

    return run
