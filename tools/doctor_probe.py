"""What `bestiary doctor` tries in processes of its own: imports, kernels, training steps, a worker.

Each prints a line of JSON a finding as it goes, so that one which is killed or hangs leaves what it had found.
"""

import contextlib
import importlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from bestiary.tools.doctor_machine import BATCH_BYTES, Finding

SIDE, CLASSES = 32, 3
LOADER_TIMEOUT = 30  # seconds that a worker may take for a batch of zeros
REINSTALL = "reinstall it: pip install --force-reinstall --no-deps -c constraints.txt"


def main(argv: list[str] | None = None) -> int:
    """Run one probe; findings go out as lines of JSON."""
    (name,) = sys.argv[1:] if argv is None else argv
    out = sys.stdout
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        for finding in PROBES[name]():
            print(json.dumps(finding._asdict() if isinstance(finding, Finding) else finding), file=out, flush=True)
    return 0


def tried(name: str, attempt: Callable[[], Finding], advice: str) -> Finding:
    """What an attempt found; that it failed, with its own words, where it did."""
    try:
        return attempt()
    except Exception as error:  # whatever a broken installation raises is what is looked for
        lines = str(error).strip().splitlines() or [""]
        return Finding(name, "fail", f"{type(error).__name__}: {lines[0][:200]}", advice)


def training() -> Iterator[Finding | dict[str, Any]]:
    """PyTorch, a training step on every kind of device, a data loader with a worker; then the kernels."""
    here = tried("pytorch", pytorch, f"{REINSTALL} torch torchvision")
    yield here
    if here.status == "fail":
        return
    import torch

    yield graphics()
    yield tried(
        "step on the CPU", lambda: step(torch.device("cpu")), "see `bestiary doctor --json` for the whole error"
    )
    if torch.cuda.is_available():
        advice = "take the build of PyTorch for this GPU and driver: https://pytorch.org/get-started"
        yield tried("step on the GPU", lambda: step(torch.device("cuda")), advice)
    advice = "train with train_dataloader.num_workers=0 val_dataloader.num_workers=0; in Docker, --shm-size=8g"
    yield tried("worker", worker, advice)
    from bestiary.tools import machine

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield {"machine": machine.describe(device), "versions": machine.versions()}
    yield from kernels()  # here, where PyTorch is loaded


def pytorch() -> Finding:
    """It imports, and computes."""
    import torch

    if float(torch.ones(3).sum()) != 3:
        raise RuntimeError("1 + 1 + 1 is not 3")
    vectors = torch.backends.cpu.get_cpu_capability()
    return Finding("pytorch", "ok", f"{torch.__version__}, {torch.get_num_threads()} threads, {vectors}")


def graphics() -> Finding:
    """GPUs that PyTorch can use; a driver that it cannot."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        memory = [torch.cuda.mem_get_info(index)[0] / 2**30 for index in range(len(names))]
        return Finding(
            "gpu", "ok", ", ".join(f"{n} ({free:.0f} GiB free)" for n, free in zip(names, memory, strict=True))
        )
    if os.path.exists("/dev/nvidiactl") or os.path.exists("/proc/driver/nvidia/version"):
        build = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs alone"
        advice = "a newer driver, or the build of PyTorch for this one: https://pytorch.org/get-started"
        if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
            advice = "CUDA_VISIBLE_DEVICES hides them: unset it"
        return Finding("gpu", "warn", f"an NVIDIA driver, which PyTorch ({build}) cannot use", advice)
    return Finding("gpu", "note", "none: training runs on the CPU")


def step(device: Any) -> Finding:
    """A classifier of ours, tiny, is trained for two steps on random pictures.

    Raises:
        RuntimeError: the loss is not finite, or the weights do not move.
    """
    import torch

    from bestiary.heads import make_classifier
    from bestiary.inputs.class_sample import ClassSample

    torch.manual_seed(0)
    model = make_classifier("poolformer_s12", CLASSES, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    samples = [ClassSample() for _ in range(4)]
    for number, sample in enumerate(samples):
        sample.set_gt_label(number % CLASSES)
    for _ in range(2):
        batch = dict(inputs=[torch.randint(256, (3, SIDE, SIDE), dtype=torch.uint8)] * 4, data_samples=samples)
        losses = model(**model.data_preprocessor(batch, training=True), mode="loss")
        loss, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not torch.isfinite(loss) or all(map(torch.equal, before, model.parameters())):
        raise RuntimeError(f"a training step gave a loss of {float(loss)}, and weights that are what they were")
    return Finding(f"step on the {'GPU' if device.type == 'cuda' else 'CPU'}", "ok", f"loss {float(loss):.3f}")


def worker() -> Finding:
    """A data loader's worker hands batches over, as large as a detector's."""
    from torch.utils.data import DataLoader

    loader = DataLoader(Pictures(), batch_size=8, num_workers=1, timeout=LOADER_TIMEOUT, prefetch_factor=2)
    size = sum(batch.nbytes for batch in loader)
    return Finding("worker", "ok", f"handed {size >> 20} MiB over")


class Pictures:
    """Sixteen black pictures of a detector's size."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        import torch

        return torch.zeros(BATCH_BYTES // 8, dtype=torch.uint8)


def libraries() -> Iterator[Finding]:
    """The packages that every training needs import, and who serves mmcv's operators."""
    for name in ("torchvision", "timm", "cv2", "mmengine", "mmcv", "mmdet", "mmseg", "faster_coco_eval"):
        found = tried(name, lambda name=name: Finding(name, "ok", importlib.import_module(name).__name__), REINSTALL)
        if found.status == "fail":
            yield found._replace(advice=f"{REINSTALL} {name}")
            if name in ("mmengine", "mmcv"):  # the others import these
                return
    yield tried("mmcv operators", operators, f"{REINSTALL} mmcv-lite torchvision")


def operators() -> Finding:
    """mmcv's own or ours; one of them is called."""
    import torch
    from mmcv.ops import nms

    from bestiary.compat.ext import MISSING, PROVIDED, is_provided

    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0], [20.0, 20.0, 29.0, 29.0]])
    kept, _ = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), iou_threshold=0.5)
    if len(kept) != 2:
        raise RuntimeError(f"nms keeps {len(kept)} of three boxes, two are right")
    if not is_provided():
        return Finding("mmcv operators", "ok", "compiled mmcv's")
    served = sum(map(len, PROVIDED.values()))
    words = f"ours serve, {served} of {served + len(MISSING)}: all that mmdet and mmseg use"
    return Finding("mmcv operators", "ok", words)


def kernels() -> Iterator[Finding]:
    """Backends of every operator; nothing is compiled for it."""
    import logging

    import torch

    import bestiary.kernels
    from bestiary.kernels import build
    from bestiary.kernels.dispatch import OPERATORS

    logging.getLogger("bestiary.kernels").setLevel(logging.ERROR)
    compiler = build.compiler()
    if compiler is None:
        library = next(iter(build.LIBRARIES.values()))
        advice = "install g++ (apt install g++): the kernels for CPUs are slower without"
        yield Finding("compiler", "warn", str(build.missing_tool(library)), advice)
    else:
        nvcc = build.cuda_home()
        yield Finding("compiler", "ok", f"{compiler}, {f'nvcc in {nvcc}' if nvcc else 'no nvcc'}")
    with build.without_compiling():
        for operator in OPERATORS:
            states = bestiary.kernels.backends(operator)
            usable = [state.name for state in states if state.usable]
            waiting = [state.name for state in states if state.reason.endswith(build.NOT_YET)]
            refused = {s.name: s.reason for s in states if not s.usable and s.name not in waiting}
            words = ", ".join(usable) + "".join(f"; {name} is compiled at its first use" for name in waiting)
            yield Finding(operator, "ok", words, "; ".join(f"no {name}: {reason}" for name, reason in refused.items()))
    buildable = [one for one in build.LIBRARIES.values() if build.missing_tool(one) is None]
    wanted = [one for one in buildable if not one.needs_nvcc or torch.cuda.is_available()]
    if names := [one.name for one in wanted if not build.library_path(one).exists()]:
        words = f"not compiled yet: {', '.join(names)}"
        yield Finding("kernels", "note", words, "at the first use, or now: python -m bestiary.kernels.build")


PROBES = {"training": training, "libraries": libraries}

if __name__ == "__main__":
    sys.exit(main())
