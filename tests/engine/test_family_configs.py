"""Every family's digits configs: the detector and the segmentor learn a fixed batch."""

import functools
from pathlib import Path

import pytest
import torch
from mmengine.runner import Runner
from shares import todays

from bestiary.backbones.names import FAMILIES
from bestiary.engine.configs import load_config
from bestiary.engine.runner import build_runner
from bestiary.inputs.digits import make_digits

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(
    path for path in CONFIGS.glob("*/*_digits.py") if path.parent.name not in ("quickstart", "heads", "_base_")
)
DETECTORS = [path for path in FILES if path.name.startswith("mask-rcnn")]
SEGMENTORS = [path for path in FILES if path.name.startswith(("upernet", "unet"))]


@functools.cache
def read(path):
    """A config, to look at and not to change."""
    return load_config(str(path))


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "digits"
    make_digits(root, train=4, val=2, layouts=("coco", "ade20k"))
    return root


def losses(path, digits, tmp_path, monkeypatch, steps):
    """The sum of losses before each of `steps` steps on one batch of two pictures."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    (Path("data") / "digits").symlink_to(digits)
    torch.manual_seed(0)
    cfg = load_config(str(path))
    assert cfg.model.backbone.type.startswith("bestiary.")
    cfg.model.backbone.pop("init_cfg", None)  # the classifier was not trained here
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.sampler = dict(type="DefaultSampler", shuffle=False)
    cfg.randomness = dict(seed=0)
    cfg.experiment_name = path.stem
    runner = build_runner(cfg)
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader)))
    model = runner.model.train()
    wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)

    def total_loss():
        total, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
        assert torch.isfinite(total)
        return total

    found = []
    for _ in range(steps):
        total = total_loss()
        found.append(float(total.detach()))
        wrapper.update_params(total)  # ends with gradients taken away
    total_loss().backward()
    without = [name for name, p in model.backbone.named_parameters() if p.grad is None]
    assert not without  # under DDP they would need find_unused_parameters
    model.eval()
    with torch.no_grad():
        results = model.test_step(next(iter(Runner.build_dataloader(cfg.val_dataloader))))
    assert len(results) == 2
    print(found)
    return found


@pytest.mark.parametrize("path", todays(DETECTORS, 6, lambda path: path.stem))
def test_detectors_learn(path, digits, tmp_path, monkeypatch):
    found = losses(path, digits, tmp_path, monkeypatch, steps=8)
    assert min(found[-3:]) < 0.85 * found[0], found


@pytest.mark.parametrize("path", todays(SEGMENTORS, 6, lambda path: path.stem))
def test_segmentors_learn(path, digits, tmp_path, monkeypatch):
    found = losses(path, digits, tmp_path, monkeypatch, steps=8)
    assert min(found[-3:]) < 0.85 * found[0], found


def test_weights_to_start_from_are_those_of_a_config_beside():
    """The checkpoint that a classifier's config leaves at its end, for an encoder of the same arch."""
    found = []
    for path in FILES:
        backbone = read(path).model.backbone
        if (init := backbone.get("init_cfg")) is None:
            continue
        checkpoint, others = Path(init.checkpoint), [read(other) for other in path.parent.glob("*_digits.py")]
        source = next(cfg for cfg in others if cfg.work_dir == str(checkpoint.parent))
        assert checkpoint.name == f"epoch_{source.train_cfg.max_epochs}.pth"
        assert source.model.backbone.arch == backbone.arch
        found.append(path.stem)
    assert found == ["unet_mhsvm_digits"]


def test_every_family_has_both():
    """Under the folder of its own name, or of a family that it is built of."""
    for paths in (DETECTORS, SEGMENTORS):
        used = {read(path).model.backbone.type.removeprefix("bestiary.") for path in paths}
        modules = {family.__module__ for family in FAMILIES if family.__name__ in used}
        missing = [family.__name__ for family in FAMILIES if family.__module__ not in modules]
        assert not missing, f"no digits config for {', '.join(missing)}"
