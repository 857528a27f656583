"""A pass of a network, inference or training, made ready to be timed in turns with others."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

from bestiary.tools.timing import Sample, on_cpu

PASSES = ("inference", "training")


def compiled_afresh(models: Iterable[nn.Module]) -> list[Callable[[Tensor], Tensor]]:
    """Each model compiled for the shapes it meets, with nothing left of what was compiled before.

    PyTorch keeps eight compilations of one piece of code, whichever models it is of, and runs it uncompiled from then
    on; a size that changed it compiles again for any size.
    """
    models = list(models)
    torch.compiler.reset()
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 2 * len(PASSES) * len(models))
    return [torch.compile(model, dynamic=False) for model in models]


def forward(run: Callable[[Tensor], Tensor], picture: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What a network gives, computed in `dtype` under autocast where that is not float32."""
    with torch.autocast(picture.device.type, dtype, enabled=dtype != torch.float32):
        return run(picture)


def loss_of(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    """A number on which all of a network's outputs have a share: logits, or maps."""
    outs = (out,) if isinstance(out, Tensor) else out
    return sum(one.float().square().mean() for one in outs)


def turn(
    run: Callable[[Tensor], Tensor],
    model: nn.Module,
    picture: Tensor,
    which: str,
    dtype: torch.dtype = torch.float32,
) -> Callable[[], list[Sample]]:
    """One turn of a pass: a call to begin with that is not counted, then one or more that are.

    Args:
        run: `model`, or what `torch.compile` made of it.
        picture: (B, C, H, W), on the device of the model.
        which: 'inference', or 'training': forward and backward, without an optimizer's step.
        dtype: of autocast; float32 leaves it out.
    """

    def inference() -> None:
        with torch.inference_mode() if run is model else torch.no_grad():
            forward(run, picture, dtype)

    def training() -> None:
        loss_of(forward(run, picture, dtype)).backward()

    step = training if which == "training" else inference

    def call() -> None:
        step()
        if picture.device.type == "cuda":  # or the launches alone would be timed
            torch.cuda.synchronize(picture.device)

    def take() -> list[Sample]:
        model.train(which == "training")
        with _gradients_kept(model):
            return on_cpu(call)

    return take


@contextlib.contextmanager
def _gradients_kept(model: nn.Module) -> Iterator[None]:
    """Gradients are kept through a turn, as in training, and given back after it."""
    yield
    for parameter in model.parameters():
        parameter.grad = None
