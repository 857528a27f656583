"""The three ways to share a model among ranks, in two gloo processes against one; sharded checkpoints."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import parallel_in_ranks
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from bestiary.backbones.reading import need_checkpoint
from bestiary.engine.parallel import folder
from bestiary.engine.parallel.batch_norm import need_sync_bn
from bestiary.engine.parallel.choice import Parallel, need_fitting, read_parallel
from bestiary.engine.parallel.sharding import shard, units_of
from bestiary.errors import InputError
from bestiary.inputs.check_files import digest
from bestiary.tools import merge


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """(what two ranks saw, the folder that they left)."""
    out = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    script = Path(parallel_in_ranks.__file__)
    done = subprocess.run([*command, script, out], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "seen.json").read_text()), out


@pytest.fixture
def checkpoint(ranks, tmp_path):
    """A copy of the sharded checkpoint, to be spoilt."""
    shutil.copytree(ranks[1] / "end.sharded", tmp_path / "end.sharded")
    return tmp_path / "end.sharded"


@pytest.fixture
def one_rank():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_the_same_steps_as_one_process(ranks):
    """In float64; Adam divides by the root of a mean of squares, which magnifies what is rounded."""
    seen, _ = ranks
    assert seen["moved"] > 0.01
    assert seen["ddp"] < 1e-10 and seen["fsdp"] < 1e-10 and seen["zero"] == 0.0
    assert seen["ddp_norms"] < 1e-13 and seen["fsdp_norms"] < 1e-13  # of the whole gradient, not of a rank's rows
    assert seen["fsdp_state"] < 1e-13 and seen["zero_state"] == 0.0


def test_optimizers_step_on_shares_as_on_the_whole(ranks):
    for name, (difference, moved) in ranks[0]["optimizers"].items():
        assert difference < 1e-10 < moved, name


def test_a_rank_holds_a_share(ranks):
    """Widths of 5 to 9 and single rows do not halve: the first rank has the larger part."""
    seen, _ = ranks
    assert 0.4 < seen["zero_share"] < 0.6 and 0.5 < seen["fsdp_share"] < 0.6
    stages = [f"backbone.stages.{stage}.blocks.{block}" for stage, block in ((0, 0), (1, 0), (2, 0), (2, 1), (3, 0))]
    assert seen["units"] == [*stages, "head"]


def test_saved_and_loaded_to_the_last_bit(ranks):
    seen, _ = ranks
    assert seen["loaded"] == seen["resumed"] == seen["full_resumed"] == seen["zero_resumed"] == 0.0
    assert seen["rest"] == {"rank": 0, "note": ["text", 1.5]}


def test_one_file_of_a_sharded_checkpoint(ranks):
    seen, out = ranks
    merged, whole = folder.merged(out / "end.sharded"), load_file(out / "whole.safetensors")
    assert merged.keys() == whole.keys()
    assert all(torch.equal(merged[name], whole[name]) for name in whole)


def test_merge_makes_one_file(ranks, checkpoint, tmp_path, capsys):
    one = tmp_path / "one.safetensors"
    assert merge.main([str(checkpoint), str(one)]) == 0
    whole, found = load_file(ranks[1] / "whole.safetensors"), load_file(one)
    assert found.keys() == whole.keys() and all(torch.equal(found[name], whole[name]) for name in whole)
    with pytest.raises(InputError, match="a folder, not a checkpoint: make one file of it by `bestiary merge`"):
        need_checkpoint(str(checkpoint))
    (checkpoint / folder.REST).unlink()
    assert merge.main([str(checkpoint), str(one)]) == 1
    assert f"error: {checkpoint}: damaged: rest.pth is missing" in capsys.readouterr().err


def test_another_number_of_ranks_goes_on(ranks, one_rank):
    net, optimizer, _ = parallel_in_ranks.sharded()
    folder.load(ranks[1] / "end.sharded", net, optimizer)
    assert all(torch.equal(net.state_dict()[k], v) for k, v in load_file(ranks[1] / "whole.safetensors").items())
    assert all(len(optimizer.state[parameter]) == 3 for parameter in net.parameters())


def test_another_model_is_refused(ranks, one_rank):
    net = parallel_in_ranks.model()
    net.head.fc = nn.Linear(9, 4).double()
    shard(net, Parallel("fsdp"))
    with pytest.raises(
        InputError, match=r"another model or another config: 2 misfits: head.fc.weight \[3, 9\], not \[4"
    ):
        folder.load(ranks[1] / "end.sharded", net, None)


def spoil(checkpoint, name, content):
    """Replace a file, and its note in the manifest."""
    (checkpoint / name).write_bytes(content)
    manifest = json.loads((checkpoint / folder.MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": digest(checkpoint / name)}
    (checkpoint / folder.MANIFEST).write_text(json.dumps(manifest))


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_planted_code_does_not_run(checkpoint, tmp_path, one_rank):
    """Where torch.distributed.checkpoint's own form has pickles: beside the tensors, and in the place of one."""
    pickle.loads(pickle.dumps(Planted(tmp_path / "works")))
    assert (tmp_path / "works").is_dir()
    net, optimizer, _ = parallel_in_ranks.sharded()
    (checkpoint / ".metadata").write_bytes(pickle.dumps(Planted(tmp_path / "harm")))
    (checkpoint / "__0_0.distcp").write_bytes(pickle.dumps(Planted(tmp_path / "harm")))
    folder.load(checkpoint, net, optimizer)  # they are not read
    shard_file = next(checkpoint.glob("shard-00001-*")).name
    good = (checkpoint / shard_file).read_bytes()
    spoil(checkpoint, shard_file, pickle.dumps(Planted(tmp_path / "harm")))
    with pytest.raises(InputError, match="no shard of a checkpoint"):
        folder.load(checkpoint, net, optimizer)
    spoil(checkpoint, shard_file, good)
    torch.save({"rest": Planted(tmp_path / "harm"), "optimizer": {}, "world_size": 1}, tmp_path / "rest.pth")
    spoil(checkpoint, folder.REST, (tmp_path / "rest.pth").read_bytes())
    with pytest.raises(InputError, match="rest.pth: it asks for 'posix.mkdir'"):
        folder.load(checkpoint, net, optimizer)
    assert not (tmp_path / "harm").exists()


def test_damage_is_named(checkpoint):
    file = next(checkpoint.glob("shard-00002-*"))
    content = bytearray(file.read_bytes())
    folder.verify(checkpoint)
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"shard-00002.* is damaged: its SHA-256"):
        folder.verify(checkpoint)
    file.write_bytes(content[:-8])
    with pytest.raises(InputError, match=r"shard-00002.* bytes, not \d+: it was cut off"):
        folder.merged(checkpoint)
    file.unlink()
    with pytest.raises(InputError, match=r"its safetensors files are not those"):
        folder.verify(checkpoint)
    (checkpoint / folder.MANIFEST).unlink()
    assert not folder.is_sharded_checkpoint(checkpoint)
    with pytest.raises(InputError, match=r"there is no manifest.json"):
        folder.verify(checkpoint)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("fsdb", r"no kind 'fsdb' \(did you mean 'fsdp'\?\)"),
        (dict(type="zero1", units=[]), "zero1 has no option units; its options: none"),
        (
            dict(type="fsdp", shards=2),
            "fsdp has no option shards; its options: units, reshard_after_forward, checkpoint",
        ),
        (dict(type="fsdp", units="backbone.*"), "give a list of patterns"),
        (dict(type="fsdp", checkpoint="whole"), "'whole' is none of sharded, full"),
        (3, "give one of ddp, zero1, fsdp"),
    ],
)
def test_wrong_choices(value, message):
    with pytest.raises(InputError, match=message):
        read_parallel(value)


def test_what_does_not_go_together():
    assert read_parallel(None) == Parallel("ddp") and read_parallel("zero1").type == "zero1"
    wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD"))
    need_fitting(Parallel("zero1"), dict(optim_wrapper=wrapper, custom_hooks=[dict(type="EMAHook")]))
    need_fitting(Parallel("fsdp"), dict(optim_wrapper=wrapper))
    for averaging in (dict(custom_hooks=[dict(type="EMAHook")]), dict(ema=0.001)):
        with pytest.raises(InputError, match="EMAHook: .* take parallel='zero1'"):
            need_fitting(Parallel("fsdp"), dict(optim_wrapper=wrapper, **averaging))
    muon = dict(type="OptimWrapper", optimizer=dict(type="bestiary.TimmOptimizer", name="nadamuon"))
    with pytest.raises(InputError, match="the optimizer nadamuon is not known to step on shares"):
        need_fitting(Parallel("fsdp"), dict(optim_wrapper=muon))
    need_fitting(Parallel("zero1"), dict(optim_wrapper=muon))
    with pytest.raises(InputError, match="it takes one optimizer"):
        need_fitting(Parallel("zero1"), dict(optim_wrapper=dict(constructor="X")))
    with pytest.raises(InputError, match="model_wrapper_cfg: each wraps"):
        need_fitting(Parallel("fsdp"), dict(optim_wrapper=wrapper, model_wrapper_cfg=dict(type="X")))
    adaptive = dict(type="bestiary.AdaptiveClipOptimWrapper", optimizer=dict(type="SGD"))
    with pytest.raises(InputError, match="AdaptiveClipOptimWrapper: it needs the whole"):
        need_fitting(Parallel("fsdp"), dict(optim_wrapper=adaptive))


def test_sync_bn_where_it_cannot_work():
    need_sync_bn({}, 1, "cpu")
    need_sync_bn(dict(sync_bn="torch"), 2, "cuda")
    with pytest.raises(InputError, match="one process has nothing to share"):
        need_sync_bn(dict(sync_bn="torch"), 1, "cuda")
    with pytest.raises(InputError, match="runs on GPUs alone, this job is on cpu"):
        need_sync_bn(dict(sync_bn="torch"), 2, "cpu")
    with pytest.raises(InputError, match="give 'torch'"):
        need_sync_bn(dict(sync_bn=True), 2, "cuda")


def test_units_by_pattern(one_rank):
    net = parallel_in_ranks.model()
    assert shard(net, Parallel("fsdp", units=("backbone.stages.*",))) == [f"backbone.stages.{n}" for n in range(4)]
    with pytest.raises(InputError, match=r"'backbone.layer\*' fits no module"):
        shard(parallel_in_ranks.model(), Parallel("fsdp", units=("backbone.layer*",)))
    assert shard(parallel_in_ranks.model(), Parallel("fsdp", units=())) == []


def test_a_parameter_of_one_number_is_refused(one_rank):
    net = parallel_in_ranks.model()
    net.scale = nn.Parameter(torch.tensor(1.0).double())
    with pytest.raises(InputError, match="scale is a parameter of a single number"):
        shard(net, Parallel("fsdp"))


def test_blocks_of_resnets_and_segmentors():
    from mmdet.models import ResNet

    net = nn.Module()
    net.backbone, net.decode_head = ResNet(18, base_channels=8), nn.Sequential(nn.Conv2d(8, 8, 1))
    net.auxiliary_head = nn.Conv2d(8, 8, 1)
    blocks = [f"backbone.layer{layer}.{block}" for layer in (1, 2, 3, 4) for block in (0, 1)]
    assert list(units_of(net)) == [*blocks, "auxiliary_head"]
