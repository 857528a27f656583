"""Activations that are recomputed: outputs, gradients, statistics and random decisions stay, memory goes down."""

import pytest
import torch
import torch.nn.functional as F
from small_families import FAMILIES, by_family, loss, picture, tiny
from timm.layers import DropPath
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import set_checkpoint_early_stop

from bestiary.backbones.metaformer import PoolFormer
from bestiary.backbones.recompute import recomputed


def with_dropout(backbone, noted):
    """Dropout behind every block; what it and drop path zeroed goes into `noted`, by place."""
    for name, module in backbone.named_modules():
        if isinstance(module, DropPath) and ".blocks." in name:
            module.register_forward_hook(
                lambda _, args, out, name=name: noted.setdefault(name, []).append(out.detach().flatten(1).any(1))
            )
    for number, block in enumerate(block for stage in backbone.stages for block in stage.blocks):

        def drop(_, args, out, number=number):
            dropped = F.dropout(out, 0.3)
            noted.setdefault(number, []).append(dropped.detach() == 0)
            return dropped

        block.register_forward_hook(drop)
    return backbone


@by_family
def test_nothing_but_memory_changes(family):
    results = []
    for with_cp in (False, True):
        noted = {}
        backbone = with_dropout(tiny(family, with_cp=with_cp, drop_path_rate=0.4).train(), noted)
        torch.manual_seed(3)
        with set_checkpoint_early_stop(False):  # or the last decision of a block would be made again unseen
            maps = backbone(picture(4, 3, 45, 71))
        loss(maps).backward()
        after = torch.rand(3)  # what is drawn next
        results.append((maps, [p.grad for p in backbone.parameters()], dict(backbone.named_buffers()), noted, after))
    (maps, grads, buffers, noted, after), (cp_maps, cp_grads, cp_buffers, cp_noted, cp_after) = results
    assert torch.equal(after, cp_after)
    for one, other in zip(maps, cp_maps, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(grads, cp_grads, strict=True):
        torch.testing.assert_close(one, other)
    assert buffers.keys() == cp_buffers.keys()
    for name, value in buffers.items():
        assert torch.equal(value, cp_buffers[name]), name
    assert noted.keys() == cp_noted.keys() and any(isinstance(place, str) for place in noted)
    for place, masks in noted.items():
        # Made once in the forward pass, and again in the backward pass as they were.
        assert len(cp_noted[place]) == 2 * len(masks), place
        assert all(map(torch.equal, cp_noted[place], (*masks, *masks))), place


def test_every_family_is_tried():
    assert len(FAMILIES) >= 20


class Live(TorchDispatchMode):
    """Bytes of what operators gave and somebody still holds."""

    def __init__(self):
        super().__init__()
        self.given = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.given[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return out

    def bytes(self):
        return sum(size for ref, size in self.given.values() if not ref.expired())


def test_memory_goes_down():
    """Of six blocks a stage, the inputs are kept and no more: below a third of what a forward pass holds otherwise."""
    held = []
    for with_cp in (False, True):
        backbone = PoolFormer(dict(depths=(6, 6, 6, 6), dims=(8, 8, 8, 8), layer_scale_init=1.0), with_cp=with_cp)
        live = Live()
        with live:
            maps = backbone.train()(picture(2, 3, 64, 64))
        held.append(live.bytes())
        assert all(x.requires_grad for x in maps)
    print(f"held after the forward pass: {held[0]} bytes, with with_cp {held[1]}")
    assert held[1] < held[0] / 3


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.SyncBatchNorm])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_batch_counts_once(momentum, norm):
    """Running statistics with a fixed weight, or the mean of all batches."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Conv2d(3, 4, 1), norm(4, momentum=momentum), nn.ReLU())
    values = [torch.randn(4, 3, 5, 5) for _ in range(3)]
    outs = [block[0](x).transpose(0, 1).flatten(1).detach() for x in values]
    for x in values:
        recomputed(block, x.requires_grad_()).sum().backward()
    norm = block[1]
    mean, variance = torch.zeros(4), torch.ones(4)
    for number, out in enumerate(outs, 1):
        weight = 1 / number if momentum is None else momentum
        mean = (1 - weight) * mean + weight * out.mean(1)
        variance = (1 - weight) * variance + weight * out.var(1)
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, variance)
    assert norm.num_batches_tracked == 3 and norm.momentum == momentum


def test_norms_are_whole_again_after_an_error():
    block = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))
    out = recomputed(block, torch.randn(2, 3, 4, 4, requires_grad=True))
    block[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        out.sum().backward()
    assert block[0].momentum == 0.1 and int(block[0].num_batches_tracked) == 1


@pytest.mark.slow
@pytest.mark.parametrize("family", ["poolformer", "resnet"])
def test_compiled_it_gives_the_same(family):
    """Statistics of batch norms, too."""
    results = []
    for with_cp, compiled in ((False, False), (True, True)):
        backbone = tiny(next(one for one in FAMILIES if one.NAME == family), with_cp=with_cp).train()
        if compiled:
            backbone.compile(backend="aot_eager")
        maps = backbone(picture(2, 3, 45, 71))
        loss(maps).backward()
        results.append([*maps, *(p.grad for p in backbone.parameters()), *backbone.buffers()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * max(1.0, float(one.detach().abs().max())))
    torch.compiler.reset()
