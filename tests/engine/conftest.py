"""A classifier's config on a handful of random pictures."""

import uuid

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image


@pytest.fixture
def class_folders(tmp_path):
    """`tmp_path`/pictures/{a,b}/{0,1,2}.jpg, 32 x 32 of noise."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(3):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    return tmp_path / "pictures"


@pytest.fixture
def classifier(class_folders, tmp_path):
    """A whole config in the scope 'bestiary': train and validation on the same pictures, two iterations."""
    data = dict(
        batch_size=3,
        num_workers=0,
        sampler=dict(type="DefaultSampler", shuffle=False),
        dataset=dict(
            type="ImageFolder",
            data_root=str(class_folders),
            pipeline=[dict(type="LoadPicture"), dict(type="PackImageInputs")],
        ),
    )
    arch = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), layer_scale_init=1.0)
    return Config(
        dict(
            default_scope="bestiary",
            custom_imports=dict(imports=["bestiary"]),
            work_dir=str(tmp_path / "work"),
            # mmengine keeps loggers by this name and the second: two tests in one second would share a log file.
            experiment_name=f"classifier-{uuid.uuid4().hex}",
            model=dict(
                type="ImageClassifier",
                backbone=dict(type="PoolFormer", arch=arch, out_indices=(3,)),
                head=dict(type="LinearHead", in_channels=8, num_classes=2),
            ),
            train_dataloader=data,
            val_dataloader=data,
            val_evaluator=dict(type="TopkAccuracy", topk=(1,)),
            train_cfg=dict(type="EpochBasedTrainLoop", max_epochs=1),
            val_cfg=dict(type="ValLoop"),
            optim_wrapper=dict(
                type="OptimWrapper",
                optimizer=dict(type="TimmOptimizer", name="nadamuon", ns_dtype="float32", lr=0.01, weight_decay=0.05),
                paramwise_cfg=dict(norm_decay_mult=0.0),
            ),
            param_scheduler=[dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=2)],
            vis_backends=[dict(type="LocalVisBackend")],
            visualizer=dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")]),
            env_cfg=dict(mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0)),
            randomness=dict(seed=0),
        )
    )
