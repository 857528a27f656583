"""bestiary convert: weights in anyone's names, written under another's."""

import pytest
import timm
import torch
from networks import same_weights
from safetensors.torch import load_file, save_file

from bestiary.backbones import PoolFormer, SHViT
from bestiary.checkpoints import build_classifier, convert_state_dict
from bestiary.tools import cli
from bestiary.tools.convert import main


@pytest.fixture(scope="module")
def ours():
    """A classifier's weights of 7 classes, every value random, under our names."""
    generator = torch.Generator().manual_seed(0)
    shapes = build_classifier("shvit_s1", num_classes=7).state_dict()
    return {
        key: torch.randn(value.shape, generator=generator) if value.is_floating_point() else torch.tensor(3)
        for key, value in shapes.items()
    }


def read(path):
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


@pytest.mark.parametrize("to", ["bestiary", "timm", "official"])
@pytest.mark.parametrize("layout", ["bestiary", "timm", "official"])
def test_from_each_to_each(ours, tmp_path, capsys, layout, to):
    source = convert_state_dict(ours, "shvit_s1", "bestiary", layout)
    torch.save({"model": source}, tmp_path / "in.pth")
    target = tmp_path / "made" / "out.safetensors"
    assert main([str(tmp_path / "in.pth"), str(target), "--arch", "shvit_s1.in1k", "--to", to]) == 0
    assert same_weights(read(target), convert_state_dict(ours, "shvit_s1", "bestiary", to))
    lines = capsys.readouterr().out.splitlines()
    numbers = sum(value.numel() for value in ours.values()) / 1e6
    counted = f"471 tensors, {numbers:.2f} M numbers"
    assert lines[0] == f"{tmp_path / 'in.pth'}: {layout} names of shvit_s1, {counted}, with a head"
    assert lines[1] == f"{target}: {to} names, {counted}" and len(lines) == 2


@pytest.mark.parametrize(("to", "entry"), [("bestiary", "state_dict"), ("timm", "state_dict"), ("official", "model")])
def test_pickles_have_the_entry_that_readers_look_for(ours, tmp_path, to, entry):
    save_file(ours, tmp_path / "in.safetensors")
    assert (
        cli.main(
            ["convert", str(tmp_path / "in.safetensors"), str(tmp_path / "out.pth"), "--arch", "shvit_s1", "--to", to]
        )
        == 0
    )
    content = read(tmp_path / "out.pth")
    assert list(content) == [entry] and same_weights(
        content[entry], convert_state_dict(ours, "shvit_s1", "bestiary", to)
    )


def test_timm_loads_what_is_written(ours, tmp_path):
    torch.save(ours, tmp_path / "in.pth")
    out = tmp_path / "out.pth"
    assert main([str(tmp_path / "in.pth"), str(out), "--arch", "shvit_s1", "--to", "timm"]) == 0
    model = timm.create_model("shvit_s1", num_classes=7, checkpoint_path=str(out))
    assert torch.equal(model.head.l.weight, ours["head.fc.weight"])
    assert torch.equal(model.patch_embed[0].c.weight, ours["backbone.stem.convs.0.conv.weight"])


def test_a_backbone_without_a_head(ours, tmp_path, capsys):
    body = {key.removeprefix("backbone."): value for key, value in ours.items() if key.startswith("backbone.")}
    torch.save(body, tmp_path / "in.pth")
    out = tmp_path / "out.pt"
    assert main([str(tmp_path / "in.pth"), str(out), "--arch", "shvit_s1"]) == 0
    assert capsys.readouterr().out.splitlines()[0].endswith("no head")
    backbone = SHViT("s1", init_cfg=dict(type="Pretrained", checkpoint=str(out)))
    backbone.init_weights()
    assert same_weights(backbone.state_dict(), body)


def test_what_the_layout_has_no_place_for_is_named(tmp_path, capsys):
    torch.save(PoolFormer("s12").state_dict(), tmp_path / "in.pth")
    assert main([str(tmp_path / "in.pth"), str(tmp_path / "out.pth"), "--arch", "poolformer_s12", "--to", "timm"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("left out, timm has no place for them: backbone.norms.0.weight, backbone.norms.0.bias,")
    assert not any(key.startswith("norm") for key in read(tmp_path / "out.pth")["state_dict"])


def refused(capsys, *argv):
    assert main(list(map(str, argv))) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def test_what_is_missing_is_listed(ours, tmp_path, capsys):
    theirs = convert_state_dict(ours, "shvit_s1", "bestiary", "timm")
    for key in ("stages.1.blocks.2.mixer.m.qkv.c.weight", "head.bn.running_var"):
        del theirs[key]
    torch.save(theirs, tmp_path / "in.pth")
    err = refused(capsys, tmp_path / "in.pth", tmp_path / "out.pth", "--arch", "shvit_s1")
    assert "timm names, but it does not fit shvit_s1: 2 missing: " in err
    assert "stages.1.blocks.2.mixer.m.qkv.c.weight" in err and "head.bn.running_var" in err
    assert not (tmp_path / "out.pth").exists()


def test_another_size_is_listed(ours, tmp_path, capsys):
    torch.save(ours, tmp_path / "in.pth")
    err = refused(capsys, tmp_path / "in.pth", tmp_path / "out.pth", "--arch", "shvit_s2")
    assert "does not fit shvit_s2: " in err and " mis-shaped: backbone." in err and " more" in err
    assert "backbone.stages.1.blocks.0.mlp.fc1.conv.weight [448, 224, 1, 1], not [616, 308, 1, 1]" in err


def test_another_family(ours, tmp_path, capsys):
    torch.save(ours, tmp_path / "in.pth")
    err = refused(capsys, tmp_path / "in.pth", tmp_path / "out.pth", "--arch", "poolformer_s12")
    assert "not weights of poolformer_s12 in any known layout: " in err and "not timm keys" in err
    assert "they look like those of shvit" in err


def test_other_messages(ours, tmp_path, capsys):
    source, out = tmp_path / "in.pth", tmp_path / "out.pth"
    torch.save(ours, source)
    for argv, message in (
        ((source, out, "--arch", "shvit_s5"), "--arch shvit_s5: no backbone 'shvit_s5'; did you mean shvit_s"),
        (
            (source, out, "--arch", "shvit_s1", "--to", "tf"),
            "--to tf: shvit_s1 has no such layout; there are bestiary, ",
        ),
        ((source, tmp_path / "out.onnx", "--arch", "shvit_s1"), "written as .safetensors, .pth, .pt: name the file so"),
        ((source, source, "--arch", "shvit_s1"), "source and destination are one file"),
        ((tmp_path / "no.pth", out, "--arch", "shvit_s1"), "no.pth: no such checkpoint"),
        ((source, source / "out.pth", "--arch", "shvit_s1"), "out.pth: could not be written"),
    ):
        assert message in refused(capsys, *argv)


def test_help(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["--help"])
    assert leaving.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "bestiary convert SRC DST --arch NAME" in out and "hf-hub:" in out and "--to LAYOUT" in out
