"""Weights into a model: nothing is skipped in silence."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..backbones.pretrained import LoadReport, compare_weights, unwrapped
from ..backbones.reading import read_checkpoint
from ..errors import InputError

__all__ = ["LoadReport", "compare_weights", "load_weights", "put_weights", "read_checkpoint"]


def put_weights(model: nn.Module, weights: Mapping[str, Tensor], name: str, strict: bool = True) -> LoadReport:
    """Copy a state dict into `model`, in place; a leading `module.` of DistributedDataParallel is taken off.

    Args:
        model: what receives the weights.
        weights: name: tensor.
        name: of the file, for messages.
        strict: every key must fit; otherwise those that fit are copied and the rest is in the report.

    Raises:
        InputError: strict, and a key is missing, unexpected or mis-shaped; or nothing at all fits.
    """
    weights = unwrapped(weights)
    report = compare_weights(model, weights)
    fitting = {
        key: value for key, value in weights.items() if key not in report.unexpected and key not in report.misshaped
    }
    who = type(model).__name__
    if not fitting:
        raise InputError(f"{name}: a checkpoint of another model: no key of it fits this {who}: {report.words()}")
    if strict and report:
        why = "the class counts differ" if report.class_counts_differ() else "it is of another model or another config"
        raise InputError(
            f"{name}: does not fit this {who} ({why}): {report.words()}. Give the config that it was trained with; "
            "to start training from the part that fits, `bestiary train --load-partial`"
        )
    model.load_state_dict(fitting, strict=False)
    return report


def load_weights(model: nn.Module, path: str | Path, strict: bool = True) -> tuple[LoadReport, dict[str, Any]]:
    """Read `path` into `model`; returns how the keys fitted, and the file's `meta` (empty where it has none).

    Raises:
        InputError: see `read_checkpoint` and `put_weights`.
    """
    checkpoint = read_checkpoint(path)
    return put_weights(model, checkpoint["state_dict"], str(path), strict), checkpoint.get("meta") or {}
