"""What the public operator refuses, and in which words."""

import re

import numpy as np
import pytest
import torch

from bestiary.errors import InputError
from bestiary.kernels import neighborhood_attention

q, k, v = torch.randn(2, 9, 7, 3, 3, 8).unbind(-3)
BIAS = torch.randn(3, 5, 5)
extra = torch.randn(2, 4, 3, 8)
TOO_SMALL = "kernel_size {} with dilation {} needs an axis of {} tokens or more, axis 1 has 7: pad the map, or use "


def turned(tensor):
    """The same values, with the last axis not contiguous."""
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


REFUSED = [  # what is changed of neighborhood_attention(q, k, v, 3), and the message
    (dict(query=q[0, 0]), "query must be (B, L, heads, D), (B, H, W, heads, D) or (B, T, H, W, heads, D), got 3 axes"),
    (dict(key=k[:, 1:]), "key must be (2, 9, 7, 'kv heads', 8) as query is, got (2, 8, 7, 3, 8)"),
    (dict(key=k[..., 1:]), "key must be (2, 9, 7, 'kv heads', 8) as query is, got (2, 9, 7, 3, 7)"),
    (dict(key=k[:1]), "key must be (2, 9, 7, 'kv heads', 8) as query is, got (1, 9, 7, 3, 8)"),
    (dict(value=v[:, :, 1:]), "value must be (2, 9, 7, 3, 'any') as key is, got (2, 9, 6, 3, 8)"),
    (dict(value=v[..., :1, :]), "value must be (2, 9, 7, 3, 'any') as key is, got (2, 9, 7, 1, 8)"),
    (dict(key=k[..., :2, :], value=v[..., :2, :]), "query's 3 heads must be a multiple of key's and value's 2"),
    (dict(key=k[..., :0, :], value=v[..., :0, :]), "query's 3 heads must be a multiple of key's and value's 0"),
    (dict(value=v[..., :0]), "heads need at least one channel, query has 8 and value 0"),
    (dict(query=q[:, :0], key=k[:, :0], value=v[:, :0]), "query's spatial axes must not be empty, got (0, 7)"),
    (dict(query=q.int()), "query must be float16, bfloat16, float32 or float64, got torch.int32"),
    (dict(key=k.bfloat16()), "key is torch.bfloat16, query torch.float32: cast them to one dtype"),
    (dict(value=v.double()), "value is torch.float64, query torch.float32: cast them to one dtype"),
    (dict(key=k.to("meta")), "key is on meta, query on cpu: move them to one device"),
    (dict(rel_pos_bias=BIAS.to("meta")), "rel_pos_bias is on meta, query on cpu: move them to one device"),
    (dict(query=turned(q)), "query's last dimension must be contiguous, its stride is 3: query.contiguous()"),
    (dict(value=turned(v)), "value's last dimension must be contiguous, its stride is 3: value.contiguous()"),
    (dict(kernel_size=(3, 3, 3)), "kernel_size has 3 entries (3, 3, 3); query has 2 spatial axes: give one each, or"),
    (dict(dilation=(1,)), "dilation has 1 entries (1,); query has 2 spatial axes"),
    (dict(kernel_size=0), "kernel_size and dilation must be at least 1, got 0 and 1 for axis 0"),
    (dict(dilation=(1, 0)), "kernel_size and dilation must be at least 1, got 3 and 0 for axis 1"),
    (dict(kernel_size=3.0), "kernel_size must be an int or one an axis, got 3.0"),
    (dict(kernel_size=True), "kernel_size must be an int or one an axis, got True"),
    (dict(stride="1"), "stride must be an int or one an axis, got '1'"),
    (dict(kernel_size=[[3], 3]), "kernel_size must be an int or one an axis, got [[3], 3]"),
    (dict(kernel_size=torch.tensor(3)), "kernel_size must be an int or one an axis, got tensor(3)"),
    (dict(is_causal=1), "is_causal must be a bool or one an axis, got 1"),
    (dict(stride=4), "stride must be from 1 to kernel_size, got stride 4 and kernel_size 3 for axis 0"),
    (dict(stride=(1, 0)), "stride must be from 1 to kernel_size, got stride 0 and kernel_size 3 for axis 1"),
    (dict(kernel_size=8), TOO_SMALL.format(8, 1, 8) + "kernel_size <= 7"),
    (dict(dilation=(3, 3)), TOO_SMALL.format(3, 3, 9) + "kernel_size <= 2 or dilation <= 2"),
    (dict(rel_pos_bias=BIAS, is_causal=(False, True)), "rel_pos_bias is not defined for causal axes: leave"),
    (dict(rel_pos_bias=BIAS[:, 1:]), "rel_pos_bias must be (heads, 2 * kernel_size - 1 an axis) = (3, 5, 5), got (3"),
    (dict(rel_pos_bias=BIAS.int()), "rel_pos_bias must be floating, got torch.int32"),
    (dict(additional_keys=extra), "additional_keys and additional_values go together, only one was given"),
    (dict(additional_keys=extra[:1], additional_values=extra), "additional_keys must be (2, 'tokens', 3, 8), got (1,"),
    (dict(additional_keys=extra, additional_values=extra[:, 1:]), "additional_values must be (2, 4, 3, 8), got (2, 3"),
    (dict(additional_keys=extra.half(), additional_values=extra), "additional_keys is torch.float16, query torch.f"),
    (dict(scale=float("nan")), "scale must be finite, got nan"),
    (dict(scale=float("inf")), "scale must be finite, got inf"),
    (dict(scale=torch.tensor(0.5)), "scale must be a number, got a tensor"),
    (dict(backend="cudnn"), "no backend 'cudnn'; there are cpu, "),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_bad_input_is_refused_in_words(changes, message):
    call = dict(query=q, key=k, value=v, kernel_size=3)
    for _ in range(2):  # what was refused once is not remembered as good
        with pytest.raises(ValueError, match=re.escape(f"neighborhood_attention: {message}")) as caught:
            neighborhood_attention(**call | changes)
        assert isinstance(caught.value, InputError)


def test_ints_of_numpy_lists_and_tuples_are_as_good():
    wanted = neighborhood_attention(q, k, v, (3, 4), (2, 1), (3, 2), (False, True))
    found = neighborhood_attention(q, k, v, [np.int64(3), 4], [2, np.int32(1)], [3, 2], [False, True])
    assert torch.equal(found, wanted)
