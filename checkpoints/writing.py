"""Weights into a file, in the form that its suffix asks for."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError

SUFFIXES = (".safetensors", ".pth", ".pt")


def need_suffix(path: str | Path) -> None:
    """Ask that a file to be written is named as one of weights.

    Raises:
        InputError: it is not.
    """
    if Path(path).suffix not in SUFFIXES:
        raise InputError(f"{path}: weights are written as {', '.join(SUFFIXES)}: name the file so")


def write_weights(path: str | Path, weights: Mapping[str, Tensor], entry: str = "state_dict") -> None:
    """Write a state dict; folders on the way are made. What shares memory with other tensors is copied.

    Args:
        path: `.safetensors`, the weights alone; `.pth` or `.pt`, a dict of one `entry`.
        weights: name: tensor.
        entry: where readers of the file look: mmengine and timm at 'state_dict', the authors at 'model'.

    Raises:
        InputError: another suffix; the file cannot be written.
    """
    need_suffix(path)
    path, weights = Path(path), {key: value.detach().cpu().contiguous().clone() for key, value in weights.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            save_file(weights, path, metadata={"format": "pt"})
        else:
            torch.save({entry: weights}, path)
    except (OSError, RuntimeError) as error:  # torch raises the latter for a folder that it may not write to
        raise InputError(f"{path}: could not be written: {error}") from error
