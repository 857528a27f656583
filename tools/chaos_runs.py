"""Small training runs that are killed and gone on with: their data, their configs, their processes, their weights."""

import atexit
import contextlib
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import Registry
from PIL import Image
from torch import Tensor

from bestiary import registry
from bestiary.backbones.reading import read_checkpoint
from bestiary.engine.parallel.folder import all_tensors
from bestiary.engine.training.resuming import BEST, PATTERNS
from bestiary.tools import train as train_tool

PICTURES, CLASSES, SIDE, BATCH, EPOCHS = 27, 2, 32, 4, 4  # the last batch of an epoch is smaller
STEPS = -(-PICTURES // BATCH)  # iterations an epoch
FEATURES = ("dropout", "augmentation", "mixup", "ema", "accumulation", "bf16")
LIMIT = 300.0  # seconds for a run that takes some five

for _kind in vars(registry).values():  # now, and not in every process that is forked from here
    if isinstance(_kind, Registry):
        _kind.import_from_location()


def make_pictures(folder: Path) -> Path:
    """`PICTURES` of noise in class folders, the same at every call; returns their folder."""
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        target = folder / "pictures" / f"class{number % CLASSES}"
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(target / f"{number:03d}.png")
    return folder / "pictures"


def write_config(
    path: Path,
    pictures: Path,
    features: Sequence[str] = FEATURES,
    workers: int = 0,
    by_epoch: bool = True,
    **changes: Any,
) -> Path:
    """A classifier with batch norms on `pictures`, validated after each epoch, with what `features` name switched on.

    Args:
        path: of the file to write.
        pictures: class folders.
        features: of `FEATURES`.
        workers: of the data loader.
        by_epoch: the loop counts epochs; else iterations, in batches of an endless sampler.
        **changes: keys of the config, dotted by double underscores: `default_hooks__checkpoint__interval=1`.
    """
    on = {feature: feature in features for feature in FEATURES}
    augmented = [
        dict(type="RandomAffine", degrees=20, translate=[0.1, 0.1], interpolation="bilinear"),
        dict(type="ColorJitter", brightness=0.4, contrast=0.4),
        dict(type="RandomHorizontalFlip"),
    ]
    steps = [dict(type="TorchvisionTransform", transforms=augmented)] if on["augmentation"] else []

    def loader(pipeline: list[dict], sampler: dict) -> dict:
        data = dict(type="ImageFolder", data_root=str(pictures), pipeline=pipeline)
        return dict(
            batch_size=BATCH,
            num_workers=workers,
            persistent_workers=workers > 0,
            sampler=sampler,
            dataset=data,
        )

    plain = [dict(type="LoadPicture"), dict(type="PackImageInputs")]
    iterations = EPOCHS * STEPS
    cfg = Config(
        dict(
            default_scope="bestiary",
            custom_imports=dict(imports=["bestiary"]),
            model=dict(
                type="ImageClassifier",
                backbone=dict(
                    type="PoolFormer", arch="s12", depths=(1, 1, 1, 1), dims=(8, 12, 16, 24), out_indices=(3,)
                ),
                head=dict(type="LinearHead", in_channels=24, num_classes=CLASSES, norm="BatchNorm"),
                mixup=dict(mixup_alpha=0.8, cutmix_alpha=1.0) if on["mixup"] else None,
            ),
            train_dataloader=loader(
                [plain[0], *steps, plain[1]],
                dict(type="DefaultSampler" if by_epoch else "InfiniteSampler", shuffle=True),
            ),
            val_dataloader=loader(plain, dict(type="DefaultSampler", shuffle=False)),
            val_evaluator=dict(type="TopkAccuracy", topk=(1,)),
            val_cfg=dict(type="ValLoop"),
            train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=EPOCHS)
            if by_epoch
            else dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=STEPS),
            optim_wrapper=dict(
                type="AmpOptimWrapper" if on["bf16"] else "OptimWrapper",
                optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05),
                accumulative_counts=3 if on["accumulation"] else 1,
                clip_grad=dict(max_norm=1.0),
            ),
            param_scheduler=[
                dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=5),
                dict(type="CosineAnnealingLR", by_epoch=False, begin=5, end=iterations, eta_min=0),
            ],
            default_hooks=dict(
                logger=dict(type="LoggerHook", interval=3),
                checkpoint=dict(type="CheckpointHook", interval=1 if by_epoch else 3, by_epoch=by_epoch),
            ),
            custom_hooks=[dict(type="EMAHook", momentum=0.1, update_buffers=True)] if on["ema"] else [],
            log_processor=dict(by_epoch=by_epoch),
            env_cfg=dict(mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0)),
            randomness=dict(seed=5, deterministic=True),
        )
    )
    if on["bf16"]:
        cfg.optim_wrapper.dtype = "bfloat16"
    if on["dropout"]:
        cfg.model.backbone.drop_path_rate = 0.3
        cfg.model.head.dropout = 0.3
    cfg.merge_from_dict({key.replace("__", "."): value for key, value in changes.items()})
    cfg.dump(path)
    return path


def start(argv: Sequence[str], log: Path, ranks: int = 1, prepare: Callable[[], object] | None = None) -> list[int]:
    """`bestiary train ARGV` in new processes, forked from this one, which has imported all; their numbers.

    Nothing in this process may have computed with torch before: the threads that it had would be missing.

    Args:
        argv: of the tool train.
        log: what it prints is added to this file.
        ranks: processes of the job, on gloo.
        prepare: called in each of them first.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sys.stdout.flush()
    processes = []
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            _child([*map(str, argv)], log, rank, ranks, port, prepare)
        processes.append(pid)
    return processes


def _child(argv: list[str], log: Path, rank: int, ranks: int, port: int, prepare: Callable | None) -> None:
    status = 1
    try:
        os.setsid()
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        torch.set_num_threads(1)
        if ranks > 1:
            job = dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=ranks, LOCAL_WORLD_SIZE=ranks, MASTER_PORT=port)
            os.environ.update({name: str(value) for name, value in job.items()}, MASTER_ADDR="127.0.0.1")
            argv += ["--launcher", "pytorch"]
        if prepare is not None:
            prepare()
        status = train_tool.main([*argv, "--threads", "1"])
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            atexit._run_exitfuncs()
        os._exit(status if isinstance(status, int) else 1)


def wait(processes: Sequence[int], limit: float = LIMIT) -> list[int]:
    """Status of each process when all have ended; negative: the signal that ended it.

    Raises:
        TimeoutError: they have not after `limit` seconds; they are killed.
    """
    statuses: dict[int, int] = {}
    end = time.monotonic() + limit
    while len(statuses) < len(processes):
        for pid in processes:
            if pid not in statuses:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    statuses[pid] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            for pid in processes:
                if pid not in statuses:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
            raise TimeoutError(f"no end after {limit} s")
        time.sleep(0.005)
    return [statuses[pid] for pid in processes]


def newest(work_dir: Path) -> dict[str, Any]:
    """What the newest checkpoint of a run holds; the parts of a sharded one are put together."""
    found = [path for pattern in PATTERNS for path in work_dir.glob(pattern) if not path.name.startswith(BEST)]
    last = max(found, key=lambda path: path.stat().st_mtime_ns)
    return {"state_dict": all_tensors(last)} if last.is_dir() else read_checkpoint(last)


def tensors(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """All tensors of a checkpoint by their path: weights, buffers, averages, the optimizer's."""
    found: dict[str, Tensor] = {}

    def collect(path: str, value: Any) -> None:
        if isinstance(value, Tensor):
            found[path] = value
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                collect(f"{path}.{key}", inner)
        elif isinstance(value, list | tuple):
            for index, inner in enumerate(value):
                collect(f"{path}.{index}", inner)

    for key in ("state_dict", "ema_state_dict", "optimizer"):
        collect(key, checkpoint.get(key, {}))
    return found


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Largest difference of any tensor of two checkpoints; infinite if they do not have the same."""
    first, second = tensors(one), tensors(other)
    if first.keys() != second.keys():
        return float("inf")
    largest = 0.0
    for key, value in first.items():
        if value.shape != second[key].shape or value.dtype != second[key].dtype:
            return float("inf")
        if not torch.equal(value, second[key]):
            gap = (value.double() - second[key].double()).abs().max().item()
            largest = max(largest, gap if gap == gap and gap > 0 else float("inf"))
    return largest


def tail(log: Path, lines: int = 12) -> str:
    """The end of what a run has printed."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.is_file() else ""
