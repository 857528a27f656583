"""Rows of channels in Triton kernels: read, written and multiplied, blocks of channels at a time."""

import triton
import triton.language as tl


@triton.jit
def load_rows(tensor, rows, inside, first, WIDTH: tl.constexpr, BLOCK: tl.constexpr, UPCAST: tl.constexpr):
    """Channels `first` to `first + BLOCK` of some tokens, (rows, BLOCK); zeros outside."""
    channel = first + tl.arange(0, BLOCK)
    mask = inside[:, None]
    if WIDTH % BLOCK != 0:
        mask = mask & (channel < WIDTH)[None, :]
    loaded = tl.load(tensor + rows[:, None] + channel[None, :], mask=mask, other=0.0)
    if UPCAST:  # the interpreter multiplies and adds bfloat16 bit patterns as if they were integers
        loaded = loaded.to(tl.float32)
    return loaded


@triton.jit
def store_rows(tensor, rows, inside, first, values, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    channel = first + tl.arange(0, BLOCK)
    mask = inside[:, None] & (channel < WIDTH)[None, :]
    tl.store(tensor + rows[:, None] + channel[None, :], values.to(tensor.dtype.element_ty), mask=mask)


@triton.jit
def products(
    left, left_tensor, left_rows, left_inside, right, right_tensor, right_rows, right_inside,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Dot products of all rows on the left with all on the right. Wide rows are loaded anew, BLOCK at a time."""
    if WIDTH <= BLOCK:
        total = tl.dot(left, tl.trans(right), input_precision="ieee")
    else:
        total = tl.zeros((left_rows.shape[0], right_rows.shape[0]), tl.float32)
        for first in range(0, WIDTH, BLOCK):
            one = load_rows(left_tensor, left_rows, left_inside, first, WIDTH, BLOCK, UPCAST)
            other = load_rows(right_tensor, right_rows, right_inside, first, WIDTH, BLOCK, UPCAST)
            total += tl.dot(one, tl.trans(other), input_precision="ieee")
    return total
