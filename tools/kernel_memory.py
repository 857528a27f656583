"""Memory that neighborhood attention takes beside its inputs and outputs, measured from outside.

On CPUs as the growth of a fresh process, which a peak of the allocator's own could not show: the kernels take scratch
memory past PyTorch. On GPUs by PyTorch's allocator.
"""

import json
import os
import subprocess
import sys
from typing import Any

import torch

from bestiary.errors import InputError
from bestiary.tools.growth import Growth
from bestiary.tools.kernel_contestants import Case, Problem, of_backend, run

LEAST_BYTES = 64 << 20  # of query, key and value: a process is never still to a few hundred kilobytes


def enlarged(problem: Problem) -> Problem:
    """The problem at the batch size at which query, key and value take `LEAST_BYTES` or more."""
    q = problem._replace(batch=1).tensors()[0]
    return problem._replace(batch=max(problem.batch, -(-LEAST_BYTES // (3 * q.nbytes))))


def measure(problem: Problem, threads: int) -> dict[str, Any]:
    """{"batch", "qkv": bytes, "extra": {"forward" and "backward": {"bytes", "part" of qkv}}}."""
    problem = enlarged(problem)
    if problem.device.type == "cuda":
        return in_this_process(problem)
    told = problem._asdict() | {"dtype": str(problem.dtype).removeprefix("torch."), "device": str(problem.device)}
    # Blocks of any size go back to the system when they are freed: otherwise a later call finds them in the process.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-m", "bestiary.tools.kernel_memory", json.dumps(told | {"threads": threads})],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise InputError(f"memory of {problem.case.name}: the process that measures it failed: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def in_this_process(problem: Problem) -> dict[str, Any]:
    """As `measure`, in the process that calls."""
    k, d = problem.case.kernel_size, problem.case.dilation
    small = problem._replace(case=problem.case._replace(spatial=(k * d, k * d)), batch=1)
    for warm in (small, small):  # libraries and threads; not this map, whose scratch memory might be kept
        run(of_backend().prepare(warm), warm.tensors(), problem.backward)

    attention = of_backend().prepare(problem)
    *leaves, d_out = problem.tensors()
    query = leaves[0]
    qkv = sum(t.nbytes for t in leaves[:3])
    found = {}

    def note(name: str, growth: Growth, outputs: int) -> None:
        extra = max(0, growth.bytes - outputs)
        found[name] = {"bytes": extra, "part": extra / qkv}

    with Growth(problem.device) as growth, torch.set_grad_enabled(problem.backward):
        out = attention(*leaves)
    lse = query.numel() // query.shape[-1] * 4
    note("forward", growth, out.nbytes + lse)
    if problem.backward:
        with Growth(problem.device) as growth:
            grads = torch.autograd.grad(out, [leaf for leaf in leaves if leaf is not None], d_out)
        note("backward", growth, sum(grad.nbytes for grad in grads))
    return {"batch": problem.batch, "qkv": qkv, "extra": found}


def main(argv: list[str] | None = None) -> int:
    """What `measure` starts: one problem as JSON in, figures as JSON out."""
    told = json.loads((sys.argv[1:] if argv is None else argv)[0])
    torch.set_num_threads(told.pop("threads"))
    case = Case(*told.pop("case"))
    case = case._replace(spatial=tuple(case.spatial))
    told |= {"dtype": getattr(torch, told["dtype"]), "device": torch.device(told["device"])}
    print(json.dumps(in_this_process(Problem(case, **told))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
