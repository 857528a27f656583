"""Checkpoints of the Hugging Face hub."""

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save_file

from bestiary.backbones import SHViT
from bestiary.backbones.reading import need_checkpoint, read_checkpoint
from bestiary.checkpoints import build_classifier, convert_state_dict, schemes
from bestiary.errors import InputError

SMALL = dict(depths=(1, 1, 1), dims=(16, 20, 24), partial_dims=(4, 5, 7))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of which `files` are all; what was asked for is in `asked`."""

    class Hub:
        files, asked = {}, []

    def download(repo, file, revision=None):
        Hub.asked.append((repo, file, revision))
        if (repo, file) not in Hub.files:
            raise EntryNotFoundError("404 Client Error.\nEntry Not Found")
        return str(Hub.files[repo, file])

    Hub.files, Hub.asked = {}, []
    monkeypatch.setattr(schemes, "hf_hub_download", download)
    return Hub


@pytest.fixture(scope="module")
def timms():
    torch.manual_seed(0)
    model = build_classifier("shvit_s1", num_classes=5, **SMALL)
    return convert_state_dict(model.state_dict(), "shvit_s1", "bestiary", "timm", **SMALL)


@pytest.mark.parametrize("file", schemes.HUB_FILES)
def test_weights_of_a_repository(hub, timms, tmp_path, file):
    path = tmp_path / file
    save_file(timms, path) if path.suffix == ".safetensors" else torch.save(timms, path)
    hub.files["timm/shvit_s1.in1k", file] = path
    need_checkpoint("hf-hub:timm/shvit_s1.in1k")  # an address passes
    weights = read_checkpoint("hf-hub:timm/shvit_s1.in1k@main")["state_dict"]
    assert weights.keys() == timms.keys() and all(torch.equal(weights[key], timms[key]) for key in timms)
    tried = schemes.HUB_FILES[: schemes.HUB_FILES.index(file) + 1]
    assert hub.asked == [("timm/shvit_s1.in1k", name, "main") for name in tried]


def test_by_init_cfg_and_by_name(hub, timms, tmp_path):
    save_file(timms, tmp_path / "model.safetensors")
    hub.files["me/mine", "model.safetensors"] = tmp_path / "model.safetensors"
    backbone = SHViT(SMALL, init_cfg=dict(type="Pretrained", checkpoint="hf-hub:me/mine"))
    backbone.init_weights()
    assert torch.equal(backbone.stem.convs[0].conv.weight, timms["patch_embed.0.c.weight"])
    model = build_classifier("shvit_s1", 5, pretrained="hf-hub:me/mine", **SMALL)
    assert torch.equal(model.head.fc.weight, timms["head.l.weight"])


def test_a_repository_without_weights(hub):
    with pytest.raises(InputError, match="hf-hub:me/mine: the repository has none of model.safetensors, pytorch_model"):
        read_checkpoint("hf-hub:me/mine")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            LocalEntryNotFoundError("cannot reach the hub\nTraceback"),
            r"\(LocalEntryNotFoundError: cannot reach the hub\);",
        ),
        (
            ConnectionError("no route"),
            r"could not be fetched \(ConnectionError: no route\); check the name, fetch them",
        ),
        (HFValidationError("Repo id must ..."), "not a repository's name: expected hf-hub:owner/name"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_fetched(monkeypatch, error, message):
    def download(*args, **kwargs):
        raise error

    monkeypatch.setattr(schemes, "hf_hub_download", download)
    with pytest.raises(InputError, match=f"hf-hub:me/mine: .*{message}"):
        read_checkpoint("hf-hub:me/mine")
