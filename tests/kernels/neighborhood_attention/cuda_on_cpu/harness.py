"""Compiles the CUDA kernels for the CPU (emulator.h) and calls them on CPU tensors, as a backend would be called.

Run as a program, it goes through random cases of `cases` in the library named on the command line: so a sanitizer can be
loaded before Python.
"""

import ctypes
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from bestiary.kernels.neighborhood_attention.reference import neighborhood_attention_reference
from bestiary.kernels.neighborhood_attention.windows import Window

HERE = Path(__file__).parent
ROUNDINGS = 8 * 2.0**-23  # of a result's largest element: what plain PyTorch may miss by luck on a few numbers
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


class NaTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("batch", ctypes.c_longlong),
        ("axis", ctypes.c_longlong * 3),
        ("head", ctypes.c_longlong),
    ]


_TENSORS = ("query", "key", "value", "out", "additional_keys", "additional_values")
_GRADIENTS = ("d_out", "d_query", "d_key", "d_value", "d_additional_keys", "d_additional_values")
_SIZES = ("dtype", "batch", "heads", "kv_heads", "channels", "value_channels", "additional")


class NaProblem(ctypes.Structure):
    """`NaProblem` of problem.h."""

    _fields_ = [
        *((name, NaTensor) for name in _TENSORS),
        ("lse", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        *((name, NaTensor) for name in _GRADIENTS),
        ("d_lse", ctypes.c_void_p),
        ("d_bias", ctypes.c_void_p),
        ("workspace", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in _SIZES),
        *((name, ctypes.c_int * 3) for name in ("length", "kernel", "stride", "dilation", "causal")),
        ("scale", ctypes.c_float),
        ("processors", ctypes.c_int),
        ("shared_limit", ctypes.c_int),
    ]


def compile_library(sources: Path, folder: Path, flags: tuple[str, ...] = ("-O1",)) -> Path:
    """The kernels in `sources` (csrc/cuda) and the emulator as one library in `folder`."""
    common = ["-std=c++20", "-fPIC", "-g0", "-DNA_EMULATED", f"-I{sources}", f"-I{HERE}", "-Wno-unknown-pragmas", *flags]
    units = [(HERE / "emulator.cpp", "", "emulator"), (sources / "launch.cu", "", "launch")]
    for part in ("forward", "backward"):
        units += [(sources / f"{part}.cu", f"-DNA_TYPE={kind}", f"{part}_{kind}") for kind in ("fp16", "bf16", "float")]

    def compile_one(unit: tuple[Path, str, str]) -> str:
        source, define, name = unit
        command = ["g++", *common, *filter(None, [define]), "-x", "c++", "-c", str(source), "-o", f"{folder}/{name}.o"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return f"{folder}/{name}.o"

    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", "2"))) as pool:
        objects = list(pool.map(compile_one, units))
    path = folder / "libna_emulated.so"
    done = subprocess.run(["g++", "-shared", *flags, *objects, "-o", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


class Emulated:
    """The C launchers of one library behind the signatures that all backends share."""

    def __init__(self, path: Path, processors: int = 4, shared_limit: int = 227 * 1024) -> None:
        self.library = ctypes.CDLL(str(path))
        self.library.na_cuda_workspace.restype = ctypes.c_longlong
        self.processors, self.shared_limit = processors, shared_limit

    def _tensor(self, tensor: Tensor | None, token_axis: bool = False) -> NaTensor:
        if tensor is None or tensor.numel() == 0:
            return NaTensor()
        strides = [0 if size == 1 else stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
        spatial = [0] * (5 - len(strides) + 1) + strides[1:-2]
        assert tensor.stride(-1) == 1 or tensor.shape[-1] == 1
        return NaTensor(tensor.data_ptr(), strides[0], (ctypes.c_longlong * 3)(*spatial[-3:]), strides[-2])

    def _problem(self, q, k, v, bias, ak, av, kernel_size, stride, dilation, is_causal, scale) -> NaProblem:
        problem = NaProblem()
        for name, tensor in (("query", q), ("key", k), ("value", v), ("additional_keys", ak), ("additional_values", av)):
            setattr(problem, name, self._tensor(tensor))
        problem.bias = None if bias is None else bias.data_ptr()
        problem.dtype = DTYPES[q.dtype]
        problem.batch, problem.heads, problem.channels = q.shape[0], q.shape[-2], q.shape[-1]
        problem.kv_heads, problem.value_channels = v.shape[-2], v.shape[-1]
        problem.additional = 0 if ak is None else ak.shape[1]
        axes = q.dim() - 3
        for name, values, neutral in (
            ("length", q.shape[1:-2], 1),
            ("kernel", kernel_size, 1),
            ("stride", stride, 1),
            ("dilation", dilation, 1),
            ("causal", is_causal, 0),
        ):
            setattr(problem, name, (ctypes.c_int * 3)(*[neutral] * (3 - axes), *(int(x) for x in values)))
        problem.scale, problem.processors, problem.shared_limit = scale, self.processors, self.shared_limit
        return problem

    def forward(self, query, key, value, rel_pos_bias, additional_keys, additional_values, *window_and_scale):
        tensors = query, key, value, rel_pos_bias, additional_keys, additional_values
        problem = self._problem(*tensors, *window_and_scale)
        out = query.new_full((*query.shape[:-1], value.shape[-1]), float("nan"))
        lse = torch.full(query.shape[:-1], float("nan"))
        problem.out, problem.lse = self._tensor(out), lse.data_ptr()
        assert self.library.na_cuda_forward(ctypes.byref(problem), None) == 0
        return out, lse

    def backward(
        self, d_out, d_lse, query, key, value, out, lse, rel_pos_bias, additional_keys, additional_values, *window_and_scale
    ):  # fmt: skip
        tensors = query, key, value, rel_pos_bias, additional_keys, additional_values
        problem = self._problem(*tensors, *window_and_scale)
        grads = [None if t is None else torch.full(t.shape, float("nan"), dtype=t.dtype) for t in tensors]
        for name, tensor in zip(("query", "key", "value"), grads, strict=False):
            setattr(problem, f"d_{name}", self._tensor(tensor))
        problem.d_additional_keys, problem.d_additional_values = self._tensor(grads[4]), self._tensor(grads[5])
        problem.d_bias = None if rel_pos_bias is None else grads[3].data_ptr()
        problem.d_out, problem.out = self._tensor(d_out), self._tensor(out)
        problem.lse, problem.d_lse = lse.data_ptr(), None if d_lse is None else d_lse.data_ptr()
        size = self.library.na_cuda_workspace(ctypes.byref(problem))
        assert size >= 0
        workspace = torch.full((size + 512,), 255, dtype=torch.uint8)
        start = -workspace.data_ptr() % 256
        problem.workspace = workspace.data_ptr() + start
        assert self.library.na_cuda_backward(ctypes.byref(problem), None) == 0
        assert (workspace[:start] == 255).all() and (workspace[start + size :] == 255).all()
        return tuple(torch.empty(0) if grad is None else grad for grad in grads)


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


def compare(library: Emulated, tensors: tuple, window_and_scale: tuple, backward: bool = True) -> dict[str, tuple]:
    """Error of each result against float64, and what is allowed: twice that of plain PyTorch in the same dtype."""
    dtype = tensors[0].dtype
    truth, plain = reference(tensors, window_and_scale), reference(tensors, window_and_scale, dtype)
    out, lse = library.forward(*tensors, *window_and_scale)
    ours = [out, lse]
    if backward:
        d_out, d_lse = seeds(out, lse)
        ours += library.backward(d_out, d_lse, *tensors[:3], out, lse, *tensors[3:], *window_and_scale)
    errors = {}
    for name, t, p, o in zip(NAMES, truth, plain, ours, strict=False):
        if t is None:
            assert o.shape == (0,), name
        elif t.numel():
            size = float(t.abs().max()) + 1e-3
            allowed = 2 * float((p.double() - t).abs().max()) + ROUNDINGS * size
            error = float((o.double() - t).abs().max())
            errors[name] = (error, allowed)
    return errors


def main() -> int:
    library, first, last = Emulated(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
    for seed in range(first, last):
        dtype = list(DTYPES)[seed % 3]
        for name, (error, allowed) in compare(library, *random_case(seed, dtype)).items():
            assert error <= allowed, (seed, dtype, name, error, allowed)
    print(f"{last - first} cases agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
