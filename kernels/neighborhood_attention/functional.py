"""`na1d`, `na2d` and `na3d` with the signature of NATTEN 0.21, so that changing the import is the whole port.

    from natten.functional import na2d           # before
    from bestiary.kernels import na2d            # after

What differs from NATTEN: a scale of 0.0 is taken as it is (NATTEN replaces it by the default), kernel sizes of 1 and
axes of length 1 are allowed, the LSE has its gradient, and `na2d` takes two spatial axes only (NATTEN's counts them
itself, whatever the name). Everything that `neighborhood_attention` can do beside (`rel_pos_bias`) is found there.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .arguments import fail
from .dispatch import neighborhood_attention

# NATTEN's names of its backends: ours that runs the same kernels. Other names are ours already.
NATTEN_BACKENDS = {
    "flex-fna": "flex",
    "cutlass-fna": "natten",
    "hopper-fna": "natten",
    "blackwell-fna": "natten",
}
_SHAPES = {1: "B, L", 2: "B, X, Y", 3: "B, X, Y, Z"}
_DOC = """Neighborhood attention over {axes} with NATTEN's signature; see `neighborhood_attention`.

    Args:
        query: ({shape}, H, D).
        key: ({shape}, G, D); H a multiple of G.
        value: ({shape}, G, E).
        kernel_size, stride, dilation: an int, or {count}.
        is_causal: a bool, or {count}; None is False.
        scale: factor on the scores, D ** -0.5 if None; 0.0 is honoured.
        additional_keys, additional_values: (B, M, G, D) and (B, M, G, E), tokens that every query sees.
        backend: None takes the fastest that can serve; a name of ours, or of NATTEN's ('flex-fna' is our 'flex', its
            compiled kernels are our 'natten'), insists on that one.
        return_lse: return the logarithm of the softmax's denominator as well.
        attention_kwargs, q_tile_shape, kv_tile_shape, backward_q_tile_shape, backward_kv_tile_shape,
            backward_kv_splits, backward_use_pt_reduction, run_persistent_kernel, kernel_schedule, torch_compile: steer
            NATTEN's own kernels and change no result: accepted, and ignored.

    Returns:
        ({shape}, H, E) in the dtype of `query`; with `return_lse` also the LSE, ({shape}, H), float32 or float64.

    Raises:
        InputError (a ValueError): arguments that do not fit one another; the named backend cannot serve (it says why).
    """


def _natten_signature(axes: int) -> Callable[..., Any]:
    def na(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        is_causal: bool | Sequence[bool] | None = False,
        scale: float | None = None,
        additional_keys: Tensor | None = None,
        additional_values: Tensor | None = None,
        attention_kwargs: dict[str, Any] | None = None,
        backend: str | None = None,
        q_tile_shape: Sequence[int] | None = None,
        kv_tile_shape: Sequence[int] | None = None,
        backward_q_tile_shape: Sequence[int] | None = None,
        backward_kv_tile_shape: Sequence[int] | None = None,
        backward_kv_splits: Sequence[int] | None = None,
        backward_use_pt_reduction: bool = False,
        run_persistent_kernel: bool = True,
        kernel_schedule: Any = None,
        torch_compile: bool = False,
        return_lse: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        if query.ndim != axes + 3:
            raise fail(f"na{axes}d takes query as ({_SHAPES[axes]}, heads, D), got {tuple(query.shape)}")
        return neighborhood_attention(
            query,
            key,
            value,
            kernel_size,
            dilation=dilation,
            stride=stride,
            is_causal=False if is_causal is None else is_causal,
            scale=scale,
            additional_keys=additional_keys,
            additional_values=additional_values,
            return_lse=return_lse,
            backend=NATTEN_BACKENDS.get(backend, backend),
        )

    na.__name__ = na.__qualname__ = f"na{axes}d"
    na.__doc__ = _DOC.format(
        shape=_SHAPES[axes],
        axes="one axis" if axes == 1 else f"{axes} axes",
        count="a sequence of one" if axes == 1 else f"{axes} of them",
    )
    return na


na1d, na2d, na3d = _natten_signature(1), _natten_signature(2), _natten_signature(3)
