"""Batch norms that count the pictures of all ranks: mmengine's key `sync_bn`."""

from collections.abc import Mapping
from typing import Any

import torch

from ...errors import InputError

KINDS = ("torch", "mmcv")


def need_sync_bn(cfg: Mapping[str, Any], world_size: int, device: torch.device | str) -> None:
    """Ask that `sync_bn` of the config, which makes SyncBatchNorm of every batch norm, can work.

    Raises:
        InputError: no such kind; one process; a device without SyncBatchNorm.
    """
    asked = cfg.get("sync_bn")
    if asked is None:
        return
    if asked not in KINDS:
        raise InputError(f"sync_bn={asked!r}: give 'torch' ('mmcv' asks for a compiled mmcv), or leave it out")
    if world_size == 1:
        raise InputError(
            f"sync_bn={asked!r}: one process has nothing to share statistics with; leave it out (sync_bn=None), or "
            "start several processes: torchrun --nproc_per_node=N tools/train.py CONFIG --launcher pytorch"
        )
    if torch.device(device).type != "cuda":
        raise InputError(
            f"sync_bn={asked!r}: SyncBatchNorm runs on GPUs alone, this job is on {torch.device(device).type}: leave "
            "it out (sync_bn=None; each process then counts its own pictures), or take a norm without batches (GN, LN)"
        )
