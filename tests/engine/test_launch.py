"""Errors, ranks and threads."""

import os

import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import HOOKS, MODELS, DefaultScope, Registry
from torch import nn
from torch.utils.data import DataLoader

import bestiary.engine
from bestiary.engine import launch
from bestiary.engine.launch import explain, ranks, run_guarded, set_threads
from bestiary.errors import InputError
from bestiary.inputs.image_folder import ImageFolder
from bestiary.inputs.transforms import LoadPicture

assert bestiary.engine  # registers ProgressHook
TOYS = Registry("toy", parent=MODELS, scope="toys")


@TOYS.register_module()
class Toy(nn.Module):
    def __init__(self, width: int, inner: dict | None = None) -> None:
        super().__init__()
        if width > 100:
            raise ValueError(f"Toy: width {width} is over 100")
        if width == 6:
            raise RuntimeError("a bug")
        if width == 8:
            len(None)  # a bug of another kind
        self.inner = TOYS.build(inner) if inner else None


def message_of(registry, cfg):
    # Runs of other tests leave their default scope behind.
    with DefaultScope.overwrite_default_scope(registry.scope), pytest.raises(Exception) as caught:
        registry.build(cfg)
    return explain(caught.value)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (dict(type="Toy"), "config: Toy.__init__() missing 1 required positional argument: 'width'"),
        (dict(type="Toy", width=2, depth=3), "config: Toy.__init__() got an unexpected keyword argument 'depth'"),
        (dict(type="Toy", width=102), "config: Toy: width 102 is over 100"),
        (dict(type="Toy", width=2, inner=dict(type="Toy", width=103)), "config: Toy: width 103 is over 100"),
        (dict(width=3), 'config: `cfg` or `default_args` must contain the key "type", but got'),
        (dict(type="Toy", width=6), None),
        (dict(type="Toy", width=8), None),
    ],
)
def test_refused_arguments(cfg, message):
    got = message_of(TOYS, cfg)
    assert got is None if message is None else got.startswith(message)


def test_a_bare_assertion_is_spelt_out():
    fpn = dict(type="mmdet.FPN", in_channels=[8, 16], out_channels=4, num_outs=1)
    assert message_of(MODELS, fpn).startswith("config: FPN: it wants num_outs")


def test_unknown_type_has_a_suggestion():
    message = message_of(MODELS, dict(type="bestiary.PoolFomer"))
    assert message.startswith(
        "config: type='bestiary.PoolFomer' is in no model registry (did you mean 'bestiary.PoolFor"
    )
    assert "did you mean 'bestiary.ProgressHook'?" in message_of(HOOKS, dict(type="bestiary.ProgressHok"))
    assert "did you mean" not in message_of(MODELS, dict(type="Qqqqqqqqqqq"))


def test_bad_input_is_one_message(capsys):
    def fail():
        raise InputError("data/x: no such folder; make it")

    assert run_guarded(fail) == 1
    out, err = capsys.readouterr()
    assert err == "error: data/x: no such folder; make it\n" and not out
    with pytest.raises(InputError):
        run_guarded(fail, debug=True)
    assert run_guarded(lambda: None) == 0


def batches(folder, pipeline):
    dataset = ImageFolder(data_root=str(folder), pipeline=pipeline)
    list(DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=list, multiprocessing_context="fork"))


def test_bad_input_in_a_worker_is_the_same_message(class_folders, capsys):
    picture = class_folders / "b" / "1.jpg"
    picture.write_bytes(picture.read_bytes()[:700])
    assert run_guarded(lambda: batches(class_folders, [LoadPicture()])) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {picture}: cannot be decoded (") and err.count("\n") == 1 and "Traceback" not in err


def test_what_mmcv_cannot_decode_is_named(class_folders, capsys):
    picture = class_folders / "a" / "2.jpg"
    picture.write_bytes(b"no picture")
    assert run_guarded(lambda: batches(class_folders, [LoadImageFromFile()])) == 1
    err = capsys.readouterr().err
    assert err == f"error: {picture}: cannot be decoded as a picture; replace it, or take it out of the data set\n"


def test_a_bug_in_a_worker_keeps_its_traceback(class_folders):
    with pytest.raises(TypeError, match="DataLoader worker process 0"):
        run_guarded(lambda: batches(class_folders, [lambda results: len(3)]))


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_guarded(lambda: 1 / 0)


def test_other_ranks_are_silent(capsys, monkeypatch):
    def fail():
        raise InputError("no")

    waited = []
    monkeypatch.setattr(launch.time, "sleep", waited.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert run_guarded(fail) == 1 and waited == [launch.PATIENCE]
    assert capsys.readouterr().err == ""


def test_ranks(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert ranks("none") == (0, 0, 1)
    with pytest.raises(InputError, match="--launcher pytorch: the environment has no 'RANK'; start .*torchrun"):
        ranks("pytorch")
    for name, value in (("RANK", "5"), ("LOCAL_RANK", "1"), ("LOCAL_WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    assert ranks("pytorch") == (5, 1, 4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="threads are set on machines without a GPU alone")
def test_threads_are_shared_among_processes(monkeypatch):
    before = torch.get_num_threads()
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2"), ("OMP_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    try:
        assert set_threads("pytorch") == 3  # torchrun's 1 is a default, not a wish
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        torch.set_num_threads(2)
        assert set_threads("pytorch") == 2
        assert set_threads("pytorch", 5) == 5
        assert set_threads("none", 4) == 4
    finally:
        torch.set_num_threads(before)
