"""The mends of mmengine, mmcv, mmdet and mmseg: each shown by what would break without it."""

import copy
import importlib
import os
import pickle
import subprocess
import sys
import textwrap
from importlib.machinery import SourceFileLoader
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch
from shares import one_day_in
from torch import nn

import bestiary
from bestiary.compat import imports
from bestiary.errors import InputError

needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this is about machines without a GPU")


def run_python(code, *args, options=()):
    command = [sys.executable, *options, "-c", textwrap.dedent(code), *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- importing bestiary -----------------------------------------------------------------------------------------------


def test_import_is_light():
    loaded = run_python("import sys, bestiary; print(*(name.partition('.')[0] for name in sys.modules))").split()
    assert not {"torch", "numpy", "mmengine", "mmcv", "mmdet", "mmseg"} & set(loaded)


def test_import_adds_little_to_torch():
    clock = "import time, torch; start = time.perf_counter(); import bestiary; print(time.perf_counter() - start)"
    assert min(float(run_python(clock)) for _ in range(2)) <= 0.3


BEFORE = "import bestiary"
AFTER = """
from mmengine.config import Config, DictAction
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
import mmengine.hub
from mmdet.utils import setup_cache_size_limit_of_dynamo
import bestiary
"""
EVERY_MEND = """
import sys, torch, mmengine.config.config, mmengine.hub.hub, mmengine.runner.runner
from mmengine.config import Config
from mmengine.utils import is_installed
from mmengine.utils.dl_utils.misc import mmcv_full_available

copies = [mmengine.utils, mmengine.utils.package_utils, mmengine.config.config]
assert all(home.is_installed.__module__ == "bestiary.compat.mmengine_patches" for home in copies)
copies = [mmengine.utils, mmengine.utils.package_utils, mmengine.config.config, mmengine.hub.hub]
assert all(home.get_installed_path.__module__ == "bestiary.compat.mmengine_patches" for home in copies)
assert mmengine.runner.runner._load_checkpoint.__wrapped__
assert mmengine.runner.checkpoint._load_checkpoint is mmengine.runner.runner._load_checkpoint
assert mmengine.config.config._is_builtin_module("os") and mmengine.config.utils._is_builtin_module("os.path")
assert mmengine.dist.utils._init_dist_pytorch.__wrapped__
assert torch.utils.data._utils.worker._worker_loop.__module__ == "bestiary.compat.workers"
assert mmcv_full_available()
with open(sys.argv[1], "w") as file:
    file.write("_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'")
assert Config.fromfile(sys.argv[1]).model.type == "RetinaNet"
assert mmengine.hub.get_config("mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py").model.type == "FCOS"
from mmdet.models.dense_heads import SSDHead
assert SSDHead.loss_cls is None
print("all")
"""


@pytest.mark.parametrize("start", [BEFORE, AFTER], ids=["bestiary first", "bestiary last"])
@one_day_in(4, 14)
def test_every_mend_in_either_order(start, tmp_path):
    assert run_python(start + EVERY_MEND, str(tmp_path / "config.py")).endswith("all\n")


def test_warnings_that_nobody_can_mend_are_silent():
    code = """
        import bestiary, torch, warnings
        with warnings.catch_warnings(record=True) as caught:
            torch.cuda.amp.autocast(enabled=False)
            compile('"%sd"' % chr(92), "/env/site-packages/mmdet/models/head.py", "exec")
            print(len(caught))
            compile('"%sd"' % chr(92), "/home/user/mine.py", "exec")  # theirs stays
            warnings.warn("`mine` is deprecated", FutureWarning)
            print(len(caught))
        """
    assert run_python(code, options=["-W", "default"]).split() == ["0", "2"]


# --- the machinery ----------------------------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library of one module, 'frailty', and a table of patches that is put back."""
    (tmp_path / "frailty.py").write_text("__version__ = '7'\ndef add(a, b):\n    return a - b\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imports, "PATCHES", {})
    yield
    sys.modules.pop("frailty", None)


def mend_add(module):
    imports.replace(module, "add", lambda a, b: a + b)


def mend_subtract(module):
    imports.replace(module, "subtract", lambda a, b: a - b)


def test_a_module_is_mended_when_imported_and_when_reloaded(library):
    imports.after_import("frailty")(mend_add)
    import frailty

    assert frailty.add(2, 3) == 5
    assert type(frailty.__spec__.loader) is SourceFileLoader  # inspect and importlib.resources rely on it
    importlib.reload(frailty)
    assert frailty.add(2, 3) == 5


def test_copies_are_mended_too(library, monkeypatch):
    import frailty

    copy_holder = type(sys)("mmengine.copy_holder")
    copy_holder.add = frailty.add
    monkeypatch.setitem(sys.modules, copy_holder.__name__, copy_holder)
    mend_add(frailty)
    assert copy_holder.add(2, 3) == 5


def test_a_patch_that_does_not_fit_warns_and_leaves_the_rest(library):
    imports.after_import("frailty")(mend_subtract)
    imports.after_import("frailty")(mend_add)
    with pytest.warns(
        imports.CompatibilityWarning, match=r"frailty has no subtract in frailty 7; the fix 'mend_subtract'"
    ):
        import frailty
    assert frailty.add(2, 3) == 5


def test_arming_twice_mends_once():
    finders = list(sys.meta_path)
    bestiary.install()
    assert sys.meta_path == finders
    from mmengine.runner.checkpoint import _load_checkpoint

    assert not hasattr(_load_checkpoint.__wrapped__, "__wrapped__")


# --- packages and configs ---------------------------------------------------------------------------------------------


def test_installed_packages():
    import mmseg
    from mmengine.utils import get_installed_path, is_installed
    from mmengine.utils.package_utils import package2module

    assert is_installed("mmsegmentation") and is_installed("mmseg") and is_installed("mmcv-lite")
    assert not is_installed("no_such_package")
    home = os.path.dirname(mmseg.__file__)
    assert get_installed_path("mmsegmentation") == get_installed_path("mmseg") == home
    assert package2module("mmsegmentation") == "mmseg"
    with pytest.raises(PackageNotFoundError, match="no_such_package"):
        get_installed_path("no_such_package")


def test_a_lazy_config_may_import_os(tmp_path, monkeypatch):
    from mmengine.config import Config

    path = tmp_path / "lazy.py"
    path.write_text(
        "import os\nfrom torch.nn import Conv2d\nbatch = os.environ.get('BATCH_OF_TEST')\nlayer = dict(type=Conv2d)\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("BATCH_OF_TEST", "17")
    config = Config.fromfile(path, lazy_import=True)
    assert config.batch == "17" and config.layer.type is nn.Conv2d


def test_deformable_offsets_get_their_learning_rate():
    """mmengine looks for them only if it believes that mmcv has its operators."""
    from mmcv.ops import ModulatedDeformConv2dPack
    from mmengine.optim import build_optim_wrapper

    model = nn.Sequential(ModulatedDeformConv2dPack(4, 4, 3))
    wrapper = build_optim_wrapper(
        model,
        dict(optimizer=dict(type="SGD", lr=1.0), paramwise_cfg=dict(dcn_offset_lr_mult=0.25)),
    )
    rates = {id(group["params"][0]): group["lr"] for group in wrapper.optimizer.param_groups}
    assert rates[id(model[0].conv_offset.weight)] == 0.25 and rates[id(model[0].weight)] == 1.0


@pytest.mark.parametrize("name", ["mmcv.ops.pixel_group", "mmdet.evaluation.functional.ytviseval"])
def test_old_aliases_of_numpy_are_where_they_are_used(name):
    module = importlib.import_module(name)
    assert module.np.float is float and module.np.cumsum is np.cumsum
    assert not hasattr(np, "float")


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_mmengine_loads_under_weights_only(tmp_path):
    from mmengine.logging import HistoryBuffer
    from mmengine.runner.checkpoint import CheckpointLoader

    history = HistoryBuffer([1.5, 2.5, 4.0], [1, 1, 2])
    saved = dict(
        state_dict=dict(weight=torch.randn(3, 2)),
        message_hub=dict(log_scalars={"train/loss": history}),
        meta=dict(score=np.float64(0.75), count=np.int64(3), flag=np.bool_(True), palette=np.arange(6).reshape(2, 3)),
    )
    torch.save(saved, tmp_path / "epoch_1.pth")
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / "epoch_1.pth"), map_location="cpu")
    assert torch.equal(loaded["state_dict"]["weight"], saved["state_dict"]["weight"])
    again = loaded["message_hub"]["log_scalars"]["train/loss"]
    assert again.mean() == history.mean() == 2.0 and again.statistics("max") == 4.0 and again.current() == 4.0
    assert {key: loaded["meta"][key] for key in ("score", "count", "flag")} == dict(score=0.75, count=3, flag=True)
    assert np.array_equal(loaded["meta"]["palette"], saved["meta"]["palette"])


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def planted(path):
    """Pickles that would make the file `path`, were they believed."""
    from mmengine.logging import HistoryBuffer

    yield Calls(os.mkdir, path)
    yield Calls(eval, f"__import__('os').mkdir({path!r})")
    yield Calls(getattr, HistoryBuffer, "__init__")
    yield Calls(getattr, HistoryBuffer, "__reduce_ex__")
    yield Calls(getattr, torch.Tensor, "mean")


@pytest.mark.parametrize("which", range(5))
def test_a_malicious_checkpoint_is_refused(which, tmp_path):
    from mmengine.runner.checkpoint import CheckpointLoader

    target = tmp_path / "executed"
    torch.save(dict(state_dict={}, extra=list(planted(str(target)))[which]), tmp_path / "evil.pth")
    with pytest.raises((pickle.UnpicklingError, InputError), match="weights_only|Weights only|was not loaded"):
        CheckpointLoader.load_checkpoint(str(tmp_path / "evil.pth"), map_location="cpu")
    assert not target.exists()


def tiny_runner(work_dir, epochs=1, resume=False, **changes):
    """A Runner that fits a convolution and a SyncBatchNorm to noise."""
    from mmengine.model import BaseModel
    from mmengine.runner import Runner

    class Model(BaseModel):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4))

        def forward(self, x, y, mode="tensor"):
            self.seen_dtype = self.layers[0](x).dtype
            return dict(loss=(self.layers(x).mean(dim=(2, 3)) - y).square().mean())

    torch.manual_seed(0)
    dataset = [(torch.randn(3, 5, 4), torch.randn(4)) for _ in range(8)]
    settings = dict(
        train_dataloader=dict(
            batch_size=2,
            dataset=dataset,
            sampler=dict(type="DefaultSampler", shuffle=True),
            collate_fn=dict(type="default_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1)),
        default_scope="mmengine",
        resume=resume,
        experiment_name=f"{os.path.basename(work_dir)}_{epochs}",
    )
    return Runner(Model(), str(work_dir), **{**settings, **changes})


@needs_no_gpu
def test_resume_goes_on_and_runs_no_text_of_the_checkpoint(tmp_path):
    tiny_runner(tmp_path).train()
    checkpoint = torch.load(tmp_path / "epoch_1.pth")
    assert isinstance(checkpoint["meta"]["cfg"], str)
    checkpoint["meta"]["config"] = f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\n"
    torch.save(checkpoint, tmp_path / "epoch_1.pth")

    runner = tiny_runner(tmp_path, epochs=2, resume=True)
    runner.train()
    assert runner.epoch == 2 and runner.iter == 8
    assert not (tmp_path / "executed").exists()
    history = runner.message_hub.log_scalars["train/loss"]
    assert len(history.data[0]) == 8 and history.mean() > 0  # 4 of the first run, 4 of the second


def test_mmcvs_sync_bn_can_be_made_alone():
    import mmcv.ops  # noqa: F401  (registers the name)
    from mmcv.cnn import build_norm_layer
    from mmengine.model import revert_sync_batchnorm

    name, layer = build_norm_layer(dict(type="MMSyncBN", eps=0.01), 5)
    assert name == "bn" and type(layer).__module__ == "mmcv.ops.sync_bn"
    x = torch.randn(3, 5, 4, 2) * 2 + 1
    reverted = revert_sync_batchnorm(layer).train()
    plain = nn.functional.batch_norm(x, None, None, layer.weight, layer.bias, training=True, eps=0.01)
    torch.testing.assert_close(reverted(x), plain)
    torch.testing.assert_close(layer.train()(x), plain)


# --- mixed precision on a CPU -----------------------------------------------------------------------------------------


@needs_no_gpu
@pytest.mark.parametrize("dtype", [None, "bfloat16", torch.bfloat16])
def test_amp_trains_in_bfloat16(dtype, tmp_path):
    wrapper = dict(type="AmpOptimWrapper", dtype=dtype, optimizer=dict(type="SGD", lr=0.1), clip_grad=dict(max_norm=1))
    runner = tiny_runner(tmp_path, optim_wrapper=wrapper)
    before = copy.deepcopy(runner.model.state_dict())
    runner.train()
    assert runner.model.seen_dtype == torch.bfloat16
    weight = runner.model.state_dict()["layers.0.weight"]
    assert weight.dtype == torch.float32 and not torch.equal(weight, before["layers.0.weight"])
    state = torch.load(tmp_path / "epoch_1.pth")["optimizer"]
    assert "loss_scaler" not in state  # an empty one could not be resumed on a GPU
    runner.optim_wrapper.load_state_dict(state)


@needs_no_gpu
@pytest.mark.parametrize("dtype", ["float16", torch.float16, "float64"])
def test_amp_refuses_what_a_cpu_cannot_train(dtype):
    from mmengine.optim import AmpOptimWrapper

    with pytest.raises(InputError, match=r"dtype 'float\d\d' does not train on a CPU; leave optim_wrapper.dtype out"):
        AmpOptimWrapper(dtype=dtype, optimizer=torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))


# --- distributed on CPUs ----------------------------------------------------------------------------------------------

LAUNCHERS = {
    "pytorch": dict(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1"),
    "slurm": dict(SLURM_PROCID="0", SLURM_NTASKS="1", SLURM_NODELIST="localhost", SLURM_LOCALID="0"),
    "mpi": dict(OMPI_COMM_WORLD_LOCAL_RANK="0", OMPI_COMM_WORLD_SIZE="1", OMPI_COMM_WORLD_RANK="0", LOCAL_RANK="0"),
}


@pytest.fixture
def process_group(monkeypatch, unused_port):
    """process_group('slurm'): a group of this process alone, by that launcher of mmengine's."""
    from mmengine.dist import utils

    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, "of another launcher")  # so that what the launcher sets is put back, too
        monkeypatch.delenv(name)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(unused_port))

    def start(launcher, **kwargs):
        for name, value in LAUNCHERS[launcher].items():
            monkeypatch.setenv(name, value)
        getattr(utils, f"_init_dist_{launcher}")(**kwargs)

    yield start
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture
def unused_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@needs_no_gpu
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_run_on_gloo(launcher, process_group):
    set_device = torch.cuda.set_device
    process_group(launcher, backend="nccl")
    assert torch.distributed.get_backend() == "gloo"
    assert os.environ["LOCAL_RANK"] == "0"
    assert torch.cuda.set_device is set_device


@needs_no_gpu
def test_a_model_on_the_cpu_is_wrapped_without_device_ids(process_group, tmp_path):
    from mmengine.model import MMDistributedDataParallel

    process_group("pytorch", backend="nccl")
    runner = tiny_runner(tmp_path, launcher="pytorch")
    assert runner.distributed and type(runner.model) is MMDistributedDataParallel
    assert runner.model.device_ids is None
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in runner.model.modules())
    runner.train()
    assert (tmp_path / "epoch_1.pth").is_file()
