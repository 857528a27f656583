"""Neighborhood attention on CPUs: C++ with AVX-512, AVX2 or portable vectors, chosen when the library is loaded."""

import torch

from .. import build
from .arguments import Call, refusal

_FOLDER = "neighborhood_attention/csrc/cpu"
_VARIANTS = {  # the library asks the processor at its first call which of them it can run
    "avx512": ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"),
    "avx2": ("-mavx2", "-mfma"),
    "portable": (),
}
build.LIBRARIES["neighborhood_attention_cpu"] = build.Library(
    "neighborhood_attention_cpu",
    units=(
        build.Unit(f"{_FOLDER}/binding.cpp"),
        *(
            build.Unit(f"{_FOLDER}/kernels.cpp", (f"-DVARIANT={name}", "-Wno-psabi", *flags), name)
            for name, flags in _VARIANTS.items()
        ),
    ),
    depends=(f"{_FOLDER}/*.h",),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_not(call: Call) -> str | None:
    return refusal(call, ("cpu",), DTYPES)


def unavailable() -> str | None:
    return build.unavailable("neighborhood_attention_cpu")
