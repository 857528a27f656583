"""Memory of one training step of a classifier beside its weights: activations, gradients and scratch space.

On CPUs as the growth of a fresh process, which counts what libraries take past PyTorch; on GPUs by its allocator.
"""

import json
import sys

import torch

from bestiary.tools.backbone_pair import pair
from bestiary.tools.bench_frame import in_fresh_process
from bestiary.tools.growth import Growth


def measure(name: str, who: str, batch: int, size: int, threads: int, device: torch.device) -> int:
    """Bytes at most in a forward and backward pass.

    Args:
        name: of the backbone.
        who: 'ours' or 'timm'.
        batch, size: of the pictures.
        threads: on a CPU.

    Raises:
        InputError: the process that measures it failed.
    """
    told = dict(name=name, who=who, batch=batch, size=size, threads=threads, device=str(device))
    return in_fresh_process("bestiary.tools.backbone_memory", f"memory of {name}", json.dumps(told))


def in_this_process(name: str, who: str, batch: int, size: int, device: torch.device) -> int:
    """As `measure`, in the process that calls."""
    model = getattr(pair(name, size), who).to(device).train()

    def step(side: int, pictures: int) -> None:
        model(torch.randn(pictures, 3, side, side, device=device)).square().mean().backward()
        model.zero_grad(set_to_none=True)

    step(size, 2)  # libraries and threads
    with Growth(device) as growth:
        step(size, batch)
    return growth.bytes


def main(argv: list[str] | None = None) -> int:
    """What `measure` starts: arguments as JSON in, bytes out."""
    told = json.loads((sys.argv[1:] if argv is None else argv)[0])
    torch.set_num_threads(told.pop("threads"))
    print(json.dumps(in_this_process(**told | {"device": torch.device(told["device"])})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
