"""Four steps of a classifier in float64, as one process, DDP, ZeRO-1 and FSDP take them, and what their states give.

Started by torchrun: `FOLDER steps`; the first rank writes what was seen to FOLDER/seen.json. `FOLDER optimizers` takes
two steps with each optimizer that FSDP takes.
"""

import copy
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.registry import OPTIMIZERS
from torch import nn

import bestiary.engine  # noqa: F401  (registers)
from bestiary.checkpoints.writing import write_weights
from bestiary.engine.parallel import folder
from bestiary.engine.parallel.choice import SHARDABLE, read_parallel
from bestiary.engine.parallel.sharding import keep_whole_states, shard, whole
from bestiary.engine.parallel.zero import ZeroOptimizer

STEPS, BATCH = 4, 6
ARCH = dict(depths=(1, 1, 2, 1), dims=(5, 6, 7, 9), layer_scale_init=1.0)  # no multiple of two ranks
ADAMW = dict(lr=0.01, weight_decay=0.05)


def model():
    """The same in every rank."""
    from mmengine.registry import MODELS

    torch.manual_seed(0)
    built = MODELS.build(
        dict(
            type="bestiary.ImageClassifier",
            backbone=dict(type="bestiary.PoolFormer", arch=ARCH, out_indices=(3,)),
            head=dict(type="bestiary.LinearHead", in_channels=9, num_classes=3),
        )
    )
    return built.double()


def loss(net, step, rank=0, ranks=1):
    """Of this rank's share of a batch."""
    generator = torch.Generator().manual_seed(step)
    pictures = torch.randn(BATCH, 3, 32, 32, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (BATCH,), generator=generator)
    mine = slice(rank * BATCH // ranks, (rank + 1) * BATCH // ranks)
    return nn.functional.cross_entropy(net(pictures[mine]), labels[mine])


def train(net, optimizer, steps, rank=0, ranks=1):
    """Norms of the gradients before they were clipped."""
    norms = []
    for step in steps:
        loss(net, step, rank, ranks).backward()
        norms.append(float(whole(nn.utils.clip_grad_norm_(net.parameters(), 0.3))))
        optimizer.step()
        optimizer.zero_grad()
    return norms


def weights(net):
    """All numbers of a model in a row."""
    state = getattr(net, "module", net).state_dict()
    return torch.cat([state[key].flatten() for key in sorted(state) if state[key].is_floating_point()])


def largest(a, b):
    """Difference of two trees of tensors; infinite where they are not alike."""
    if isinstance(a, dict):
        return max((largest(a[k], b[k]) for k in a), default=0.0) if a.keys() == b.keys() else float("inf")
    if isinstance(a, list | tuple):
        return max((largest(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if isinstance(a, torch.Tensor):
        return float((a.double() - b.double()).abs().max()) if a.shape == b.shape else float("inf")
    return abs(a - b) if isinstance(a, float) else 0.0 if a == b else float("inf")


def sharded():
    """A model, its optimizer."""
    net = model()
    names = shard(net, read_parallel("fsdp"))
    optimizer = torch.optim.AdamW(net.parameters(), **ADAMW)
    keep_whole_states(optimizer)
    return net, optimizer, names


def sharded_against_ddp(name, rank, ranks):
    """(difference of two steps of an optimizer under FSDP and DDP, how far they went).

    `eps` is Adam's in all: Adagrad's 1e-10 and LaProp's 1e-15 are less than what is left by rounding of gradients that
    are zero, those of biases before a norm, and a step divides that by itself.
    """
    nets = nn.parallel.DistributedDataParallel(model()), model()
    shard(nets[1], read_parallel("fsdp"))
    for net in nets:
        kind = dict(type=name) if hasattr(torch.optim, name) else dict(type="bestiary.TimmOptimizer", name=name)
        optimizer = OPTIMIZERS.build(dict(params=list(net.parameters()), lr=0.01, **kind))
        for group in optimizer.param_groups:
            group.update({"eps": 1e-8} if "eps" in group else {})
        train(net, optimizer, range(2), rank, ranks)
    return largest(*map(weights, nets)), largest(weights(nets[0]), weights(model()))


def main(out):
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    seen = {}

    one = model()
    norms = train(one, torch.optim.AdamW(one.parameters(), **ADAMW), range(STEPS))
    expected = weights(one)
    seen["moved"] = float((expected - weights(model())).abs().max())

    ddp = nn.parallel.DistributedDataParallel(model())
    ddp_optimizer = torch.optim.AdamW(ddp.parameters(), **ADAMW)
    seen["ddp_norms"] = largest(train(ddp, ddp_optimizer, range(STEPS), rank, ranks), norms)
    seen["ddp"] = largest(weights(ddp), expected)

    zero_net = nn.parallel.DistributedDataParallel(model())
    zero = ZeroOptimizer(zero_net.parameters(), "AdamW", **ADAMW)
    train(zero_net, zero, range(STEPS), rank, ranks)
    seen["zero"] = largest(weights(zero_net), weights(ddp))
    held = sum(value.numel() for state in zero.optim.state.values() for value in state.values())
    seen["zero_share"] = held / sum(v.numel() for s in ddp_optimizer.state.values() for v in s.values())
    state = zero.state_dict()
    if rank == 0:
        seen["zero_state"] = largest(state["state"], ddp_optimizer.state_dict()["state"])
    box = [copy.deepcopy(state)]  # on the CPU it is the optimizer's own memory
    dist.broadcast_object_list(box)
    again = nn.parallel.DistributedDataParallel(model())
    again.load_state_dict(zero_net.state_dict())
    fresh = ZeroOptimizer(again.parameters(), "AdamW", **ADAMW)
    fresh.load_state_dict(box[0])
    train(again, fresh, [STEPS], rank, ranks)
    train(zero_net, zero, [STEPS], rank, ranks)
    seen["zero_resumed"] = largest(weights(again), weights(zero_net))

    fsdp, optimizer, seen["units"] = sharded()
    local = sum(parameter.to_local().numel() for parameter in fsdp.parameters())
    seen["fsdp_share"] = local / sum(parameter.numel() for parameter in fsdp.parameters())
    seen["fsdp_norms"] = largest(train(fsdp, optimizer, range(STEPS), rank, ranks), norms)
    seen["fsdp"] = largest(weights(fsdp), expected)
    full = copy.deepcopy((fsdp.state_dict(), optimizer.state_dict()))
    seen["fsdp_state"] = largest(full[1]["state"], ddp_optimizer.state_dict()["state"])
    folder.save(out / "half.sharded", fsdp, optimizer, {"rank": rank, "note": ["text", 1.5]})
    train(fsdp, optimizer, [STEPS], rank, ranks)
    after = copy.deepcopy((fsdp.state_dict(), optimizer.state_dict()))

    net, other, _ = sharded()
    train(net, other, [17], rank, ranks)  # a state that must not show
    seen["rest"] = folder.load(out / "half.sharded", net, other)
    seen["loaded"] = largest((net.state_dict(), other.state_dict()), full)
    train(net, other, [STEPS], rank, ranks)
    seen["resumed"] = largest((net.state_dict(), other.state_dict()), after)
    folder.save(out / "half.sharded", net, other, {})  # in the place of the other
    folder.save(out / "end.sharded", net, other, {})
    folder.load(out / "half.sharded", *sharded()[:2])

    net, other, _ = sharded()
    net.load_state_dict(full[0])
    other.load_state_dict(full[1])
    train(net, other, [STEPS], rank, ranks)
    seen["full_resumed"] = largest((net.state_dict(), other.state_dict()), after)

    plain = model()
    plain.load_state_dict(full[0])  # whole weights are anybody's
    if rank == 0:
        write_weights(out / "whole.safetensors", after[0])
        (out / "seen.json").write_text(json.dumps(seen))
    dist.destroy_process_group()


def compare_optimizers(out):
    """`sharded_against_ddp` of each, by name, in optimizers.json."""
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    found = {name: sharded_against_ddp(name, dist.get_rank(), dist.get_world_size()) for name in SHARDABLE}
    if dist.get_rank() == 0:
        (out / "optimizers.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    {"steps": main, "optimizers": compare_optimizers}[sys.argv[2]](Path(sys.argv[1]))
