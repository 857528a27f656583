"""Compiles the CUDA kernels for the CPU (emulator.h) and calls them on CPU tensors, as a backend would be called.

Run as a program, it goes through random cases in the library named on the command line: so a sanitizer can be loaded
before Python.
"""

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from bestiary.kernels.build import STABLE_TARGET
from bestiary.kernels.neighborhood_attention.operators import BACKWARD_SCHEMA, FORWARD_SCHEMA
from bestiary.kernels.neighborhood_attention.reference import neighborhood_attention_reference
from bestiary.kernels.neighborhood_attention.windows import Window

HERE = Path(__file__).parent
DTYPES = torch.float32, torch.float16, torch.bfloat16


def compile_library(
    sources: Path, folder: Path, flags: tuple[str, ...] = ("-O1",), space: str = "bestiary_emulated"
) -> Path:
    """The kernels in `sources` (csrc/cuda) and the emulator as one library in `folder`."""
    common = [
        "-std=c++20",
        "-fPIC",
        "-g0",
        "-DNA_EMULATED",
        f"-I{sources}",
        f"-I{HERE}",
        "-Wno-unknown-pragmas",
        *flags,
    ]
    units = [(HERE / "emulator.cpp", "", "emulator"), (sources / "launch.cu", "", "launch")]
    binding = (
        f"-I{Path(torch.__file__).parent / 'include'} -DTORCH_TARGET_VERSION={STABLE_TARGET} -DNA_NAMESPACE={space}"
    )
    units += [(sources / "na_cuda_binding.cpp", binding, "binding")]
    for part in ("forward", "backward"):
        units += [(sources / f"{part}.cu", f"-DNA_TYPE={kind}", f"{part}_{kind}") for kind in ("fp16", "bf16", "float")]

    def compile_one(unit: tuple[Path, str, str]) -> str:
        source, define, name = unit
        command = ["g++", *common, *define.split(), "-x", "c++", "-c", str(source), "-o", f"{folder}/{name}.o"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return f"{folder}/{name}.o"

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", "2"))) as pool:
        objects = list(pool.map(compile_one, units))
    path = folder / "libna_emulated.so"
    link = [
        "g++",
        "-shared",
        *flags,
        *objects,
        "-o",
        str(path),
        f"-L{Path(torch.__file__).parent / 'lib'}",
        "-ltorch_cpu",
    ]
    done = subprocess.run(link, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


def load(path: Path) -> None:
    """Attach the library's kernels to torch.ops.bestiary_emulated.na_forward and na_backward."""
    torch.library.define("bestiary_emulated::na_forward", FORWARD_SCHEMA)
    torch.library.define("bestiary_emulated::na_backward", BACKWARD_SCHEMA)
    torch.ops.load_library(str(path))


def random_case(seed: int, dtype: torch.dtype) -> tuple[tuple, tuple]:
    """Tensors (query to additional values) and window, rich in border cases: k = L, k = 1, axes of length 1..."""
    rng = random.Random(seed)
    axes = rng.choice([1, 2, 2, 3])
    largest = {1: 70, 2: 13, 3: 6}[axes]
    spatial, window = [], []
    bias_allowed = True
    for _ in range(axes):
        dilation = rng.choice([1, 1, 1, 2, 3])
        kernel = rng.choice([1, 2, 3, 4, 5, 7])
        length = rng.choice([kernel * dilation, kernel * dilation + 1, rng.randint(1, largest)])
        dilation = max(1, min(dilation, length // kernel))
        kernel = min(kernel, length // dilation)
        causal = rng.random() < 0.2
        bias_allowed &= not causal
        spatial.append(length)
        window.append((kernel, rng.choice([1, 1, rng.randint(1, kernel)]), dilation, causal))
    groups = rng.choice([1, 1, 2])
    heads = groups * rng.choice([1, 1, 2, 3])
    channels = rng.choice([1, 5, 8, 16, 24, 32, 32, 40, 64])
    value_channels = channels if rng.random() < 0.7 else rng.choice([3, 8, 32, 48])
    batch, extra = rng.choice([1, 2]), rng.choice([0, 0, 1, 5, 17])
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    if heads == groups and channels == value_channels and rng.random() < 0.4:  # one packed tensor
        q, k, v = normal(batch, *spatial, 3, heads, channels).unbind(-3)
    else:
        q, k = normal(batch, *spatial, heads, channels), normal(batch, *spatial, groups, channels)
        v = normal(batch, *spatial, groups, value_channels + 8)[..., :value_channels]
    bias = None
    if bias_allowed and rng.random() < 0.5:
        bias = torch.randn(heads, *(2 * entry[0] - 1 for entry in window), generator=generator)
    ak = normal(batch, extra, groups, channels) if extra else None
    av = normal(batch, extra, groups, value_channels) if extra else None
    return (q, k, v, bias, ak, av), (*(list(entry) for entry in zip(*window, strict=True)), channels**-0.5)


def reference(tensors: tuple, window_and_scale: tuple, dtype: torch.dtype = torch.float64) -> tuple:
    """Out, LSE and the gradients of `seeds`, computed in `dtype`."""
    leaves = [None if t is None else t.detach().to(dtype).requires_grad_() for t in tensors]
    *window, scale = window_and_scale
    out, lse = neighborhood_attention_reference(*leaves, Window(*(tuple(w) for w in window)), scale)
    d_out, d_lse = seeds(out, lse)
    wanted = [leaf for leaf in leaves if leaf is not None]
    # Out may be in 16 bits; the seeds then are the same numbers, rounded.
    grads = iter(torch.autograd.grad([out, lse], wanted, [d_out.to(out.dtype), d_lse.to(lse.dtype)]))
    return (out.detach(), lse.detach(), *(None if leaf is None else next(grads) for leaf in leaves))


def seeds(out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients to begin with, exact in 8 bits of mantissa."""
    generator = torch.Generator().manual_seed(out.numel())
    draw = [torch.randint(-16, 17, t.shape, generator=generator) / 16 for t in (out, lse)]
    return draw[0].to(out.dtype), draw[1].to(lse.dtype)


NAMES = "out", "lse", "d_query", "d_key", "d_value", "d_rel_pos_bias", "d_additional_keys", "d_additional_values"


def run(tensors: tuple, window_and_scale: tuple) -> tuple:
    """What `reference` returns, by the kernels. New memory should be poisoned by the caller."""
    out, lse = torch.ops.bestiary_emulated.na_forward(*tensors, *window_and_scale)
    saved = *tensors[:3], out, lse, *tensors[3:]
    return out, lse, *torch.ops.bestiary_emulated.na_backward(*seeds(out, lse), *saved, *window_and_scale)


def compare(tensors: tuple, window_and_scale: tuple, plain: tuple | None = None) -> dict[str, tuple]:
    """Error of each result against float64, and what is allowed: twice the error of `plain`, results of plain PyTorch
    in the same dtype (None: a rounding of the largest score, for a smoke test)."""
    dtype = tensors[0].dtype
    truth, ours = reference(tensors, window_and_scale), run(tensors, window_and_scale)
    steep = torch.finfo(torch.float32).eps * max([0.0, *truth[1].abs().flatten().tolist()])
    errors = {}
    for i, (name, t, o) in enumerate(zip(NAMES, truth, ours, strict=True)):
        if t is None:
            assert o.shape == (0,), name
            continue
        assert o.shape == t.shape, name
        if t.numel():
            eps = 4 * torch.finfo(torch.float32 if name == "lse" else dtype).eps + steep
            usual = 2 * eps if plain is None else float((plain[i].double() - t).abs().max())
            errors[name] = float((o.double() - t).abs().max()), 2 * usual + eps * max(1.0, float(t.abs().max()))
    return errors


def main() -> int:
    path, first, last = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    load(path)
    torch.use_deterministic_algorithms(True, warn_only=True)  # new memory is NaN
    for seed in range(first, last):
        dtype = DTYPES[seed % 3]
        for name, (error, allowed) in compare(*random_case(seed, dtype)).items():
            assert error <= allowed, (seed, dtype, name, error, allowed)
    print(f"{last - first} cases agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
