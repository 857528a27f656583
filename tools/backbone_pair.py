"""A classifier of ours and timm's with one set of weights, to be compared."""

from typing import NamedTuple

import timm
import torch
from timm.layers import DropPath
from torch import nn

from bestiary.checkpoints import build_classifier, convert_state_dict


class Pair(NamedTuple):
    """A classifier of ours and timm's, with one set of weights."""

    ours: nn.Module
    timm: nn.Module


def pair(name: str, size: int, seed: int = 0) -> Pair:
    """Ours with timm's arithmetic and timm's, for pictures of `size`; the same random weights."""
    torch.manual_seed(seed)
    fixed = {"img_size": size} if "maxvit" in name or "maxxvit" in name else {}
    theirs = timm.create_model(name, **fixed)
    for module in theirs.modules():
        if isinstance(module, DropPath):  # some have a rate by default; ours have none
            module.drop_prob = 0.0
    # As a trained network has them: layer scales and last norms that start near zero would hide their branches.
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.ndim == 1 and parameter.abs().max() < 0.01:
                parameter.add_(torch.rand_like(parameter) * 0.2)
    ours = build_classifier(name, like="timm")
    weights = convert_state_dict(theirs.state_dict(), name, "timm", "bestiary")
    ours.load_state_dict({**ours.state_dict(), **weights})
    return Pair(ours, theirs)
