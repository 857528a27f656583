"""Strict loading: what fits, what does not, and files that are no checkpoints."""

import os
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from bestiary.checkpoints.loading import load_weights, put_weights, read_checkpoint
from bestiary.errors import InputError


def net(classes=5, width=7):
    torch.manual_seed(classes)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, classes))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", ["plain", "mmengine", "model", "module", "safetensors"])
def test_every_form_of_file_loads(tmp_path, kind):
    source, target = net(), net()
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    assert not same(source, target)
    state, path = source.state_dict(), tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        content = {
            "plain": state,
            "mmengine": {"state_dict": state, "meta": {"epoch": 3, "config": "raise SystemExit"}},
            "model": {"model": state, "epoch": 3},
            "module": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        }[kind]
        torch.save(content, path)
    report, meta = load_weights(target, path)
    assert not report and same(source, target)
    assert meta == ({"epoch": 3} if kind == "mmengine" else {})  # text that mmengine would run is gone


def test_other_class_count(tmp_path):
    path, target = tmp_path / "w.pth", net(classes=4)
    torch.save(net(classes=5).state_dict(), path)
    before = target[2].weight.clone()
    with pytest.raises(
        InputError, match=r"w.pth: does not fit this Sequential \(the class counts differ\): 2 mis-shaped"
    ) as e:
        load_weights(target, path)
    assert "2.weight [5, 7] in the file, [4, 7] in the model" in str(e.value) and "--load-partial" in str(e.value)
    report, _ = load_weights(target, path, strict=False)
    assert list(report.misshaped) == ["2.weight", "2.bias"] and not report.missing
    assert torch.equal(target[2].weight, before) and not torch.equal(target[0].weight, net(classes=4)[0].weight)


def test_other_model(tmp_path):
    state = net().state_dict()
    state["9.weight"] = state.pop("2.weight")
    with pytest.raises(InputError, match=r"another config\): 1 missing \(2.weight\); 1 unexpected \(9.weight\)"):
        put_weights(net(), state, "w.pth")
    with pytest.raises(InputError, match="w.pth: a checkpoint of another model: no key of it fits this Sequential"):
        put_weights(net(), {f"backbone.{key}": value for key, value in state.items()}, "w.pth", strict=False)


def test_missing_file_names_its_neighbours(tmp_path):
    (tmp_path / "epoch_3.pth").touch()
    with pytest.raises(InputError, match=r"epoch_4.pth: no such checkpoint; .* has epoch_3.pth"):
        read_checkpoint(tmp_path / "epoch_4.pth")
    with pytest.raises(InputError, match="there is no folder"):
        read_checkpoint(tmp_path / "nowhere" / "epoch_4.pth")
    with pytest.raises(InputError, match="a folder, not a checkpoint"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"hello, not a checkpoint\n" * 9, b"\x89PNG\r\n\x1a\n" + bytes(64), b"PK\x03\x04xx"]
)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_not_a_checkpoint(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: not a (checkpoint|safetensors)"):
        read_checkpoint(path)


def test_cut_off(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-900])
    with pytest.raises(InputError, match="w.pth: not a checkpoint, or one that was cut off"):
        read_checkpoint(path)


class Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


def test_code_in_a_file_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": net().state_dict(), "x": Planted()}, "w.pth")
    with pytest.raises(InputError, match="asks for '(posix|nt).mkdir', which no checkpoint of weights needs"):
        read_checkpoint("w.pth")
    with open("p.pth", "wb") as file:
        pickle.dump(Planted(), file)
    with pytest.raises(InputError, match="p.pth"):
        read_checkpoint("p.pth")
    assert not os.path.exists("planted")


@pytest.mark.parametrize("content", [torch.ones(3), {"epoch": 3}, {"state_dict": {}}, [1, 2]])
def test_no_weights_in_it(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="w.pth: (it holds a|there are no weights in it)"):
        read_checkpoint(tmp_path / "w.pth")
