"""Triton kernels compiled ahead of time for GPUs that are not there: what they take of registers, and their code."""

import re
import subprocess
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
POINTERS = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int64: "*i64", torch.int32: "*i32", torch.bool: "*i1",
}  # fmt: skip


def compiled(one, target: GPUTarget):
    """The kernel of a launch, compiled as Triton's own launcher would for aligned tensors."""
    given = {**one.arguments, "first_batch": 0}
    signature, attributes, constants = {}, {}, {}
    for place, parameter in enumerate(one.kernel.params):
        if parameter.name in one.constants:
            signature[parameter.name], constants[(place,)] = "constexpr", one.constants[parameter.name]
        elif isinstance(given[parameter.name], torch.Tensor):
            signature[parameter.name] = POINTERS[given[parameter.name].dtype]
            attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32" if isinstance(given[parameter.name], float) else "i32"
    source = ASTSource(one.kernel, signature, constants, attributes)
    options = {"num_warps": one.warps, "num_stages": one.stages}
    return triton.compile(source, target=target, options=options)


def resources(binary: bytes, folder: Path) -> tuple[int, int, str]:
    """Registers a thread, bytes of stack (spills), and the machine code in words."""
    file = folder / "kernel.cubin"
    file.write_bytes(binary)

    def ask(option: str) -> str:
        command = [BINARIES / "cuobjdump", option, file]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    usage, code = ask("-res-usage"), ask("-sass")
    return int(re.search(r"REG:(\d+)", usage)[1]), int(re.search(r"STACK:(\d+)", usage)[1]), code


def check(one, architecture: int, tmp_path: Path, record_property, monkeypatch, budget: int = 0) -> str:
    """That the kernel of a launch compiles without spilling more than `budget` bytes; returns its machine code.

    ptxas spills a few bytes on its own accord at counts of registers such as 64, 80 and 128, with which more blocks of
    threads fit on a processor.
    """
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    binary = compiled(one, GPUTarget("cuda", architecture, 32))
    registers, stack, code = resources(binary.asm["cubin"], tmp_path)
    record_property("registers", registers)
    record_property("stack", stack)
    print(f"{one.kernel.fn.__name__} sm_{architecture}: {registers} registers, {stack} bytes of stack")
    spills = stack > budget or (not budget and re.search(r"\b(LDL|STL)\b", code))
    assert not spills, f"{registers} registers and {stack} bytes spilled"
    assert binary.metadata.shared <= 99 * 1024  # what every GPU since sm_80 has for one block
    return code
