"""ISIC and Synapse from their downloads' layouts to a score: prepared, trained two epochs, tested, all in small."""

import nibabel
import numpy as np
import pytest
from PIL import Image
from shares import one_day_in

from bestiary.engine.configs import load_config
from bestiary.engine.runner import build_runner
from bestiary.tools.data import main as data_tool

ARCH = dict(depths=(1, 1, 1, 1), dims=(16, 24, 32, 48))


def lesions(root):
    rng = np.random.default_rng(0)
    inputs, masks = root / "ISIC2018_Task1-2_Training_Input", root / "ISIC2018_Task1_Training_GroundTruth"
    inputs.mkdir(parents=True)
    masks.mkdir()
    y, x = np.mgrid[:48, :60]
    for index in range(12):
        inside = ((y - rng.integers(16, 32)) / 14) ** 2 + ((x - rng.integers(20, 40)) / 17) ** 2 < 1
        picture = np.where(inside[..., None], 60, 190) + rng.normal(0, 10, (48, 60, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(inputs / f"ISIC_{index:07d}.jpg")
        Image.fromarray(inside.astype(np.uint8) * 255).save(masks / f"ISIC_{index:07d}_segmentation.png")


def scans(root):
    rng = np.random.default_rng(0)
    for case in (1, 5):
        organs = np.zeros((40, 40, 5), np.uint8)
        organs[5:20, 8:30] = 6
        organs[25:35, 5:15] = 1
        volume = np.where(organs, 200.0, -100) + rng.normal(0, 20, organs.shape)
        for kind, values in (("img", volume.astype(np.float32)), ("label", organs)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), root / kind / f"{kind}{case:04d}.nii.gz")


@pytest.mark.parametrize(
    "name, make, config",
    [
        ("isic2018", lesions, "mhs_vm/unet_mhsvm-small_1xb32-300e_isic2018-256x256"),
        ("synapse", scans, "mhs_vm/unet_mhsvm-small_1xb32-320e_synapse-224x224"),
    ],
)
@one_day_in(4, 21)
def test_from_download_to_score(name, make, config, tmp_path):
    make(tmp_path / "in")
    assert data_tool(["prepare", name, str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    cfg = load_config(config)
    small = (64, 64)
    for split in ("train", "val", "test"):
        loader = cfg[f"{split}_dataloader"]
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(tmp_path / "out")
        for step in loader.dataset.pipeline:
            if step.type == "Resize":
                step.scale = small
    cfg.train_dataloader.batch_size = 4
    cfg.model.data_preprocessor.size = small
    cfg.model.backbone.update(ARCH, drop_path_rate=0.0)
    cfg.model.decode_head.update(in_channels=[*ARCH["dims"], ARCH["dims"][-1]], depths=(1, 1, 1, 1), drop_path_rate=0.0)
    cfg.train_cfg.update(max_epochs=2, val_begin=1, val_interval=2)
    cfg.param_scheduler[0].end = 2
    cfg.work_dir = str(tmp_path / "work")
    runner = build_runner(cfg)
    runner.train()
    scores = runner.test()
    # Two epochs are no training; this is that pictures, labels, losses, threshold and scores fit together.
    assert 0 < scores["mIoU"] < scores["mDice"] <= 100 and 0 < scores["aAcc"] <= 100, scores
    assert len(runner.test_dataloader.dataset) == (4 if name == "isic2018" else 5)
    batch = runner.model.data_preprocessor(next(iter(runner.train_dataloader)), training=True)
    assert batch["inputs"].shape == (4, 3, *small)
    # Stretched to 0 .. 255 before the size changes, or divided by 255.
    assert 200 < batch["inputs"].max() <= 255.01 if name == "isic2018" else batch["inputs"].max() <= 1
    labels = {int(value) for sample in batch["data_samples"] for value in sample.gt_sem_seg.data.unique()}
    assert labels == ({0, 1} if name == "isic2018" else {0, 5, 7})
