"""bestiary test: COCO's backends, tables, test-time augmentation, predictions that are saved and gone on with."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from shares import one_day_in

from bestiary.engine import loops, tta
from bestiary.engine.configs import SHIPPED
from bestiary.engine.saving import SavedPredictions
from bestiary.errors import InputError
from bestiary.heads.classifier import ImageClassifier
from bestiary.inputs import ClassSample
from bestiary.registry import MODELS
from bestiary.tools import test as test_tool
from bestiary.tools import train as train_tool


@pytest.fixture(scope="module", params=["detection", "segmentation"])
def trained(request, tiny, tmp_path_factory):
    """(config, checkpoint) after one or two steps."""
    work_dir = tmp_path_factory.mktemp(request.param)
    config = str(tiny / f"{request.param}.py")
    options = ["train_cfg.max_epochs=1"] if request.param == "detection" else ["train_cfg.max_iters=2"]
    assert train_tool.main([config, "--work-dir", str(work_dir), "--seed", "3", "--cfg-options", *options]) == 0
    return config, str(next(work_dir.glob("*_[0-9].pth")))


def scores(trained, work_dir, *argv):
    """`metrics` of metrics.json after bestiary test."""
    assert test_tool.main([*trained, "--work-dir", str(work_dir), *map(str, argv)]) == 0
    return json.loads((work_dir / "metrics.json").read_text())["metrics"]


@one_day_in(4, 15)
def test_saved_gone_on_with_and_scored_the_same(trained, tmp_path, monkeypatch, capsys):
    plain = scores(trained, tmp_path / "plain")
    folder = tmp_path / "saved"
    monkeypatch.setattr(loops, "BATCHES", 1)
    assert scores(trained, tmp_path / "saving", "--save-predictions", folder) == plain
    kept = {path.name: path.read_bytes() for path in folder.glob("results.*.json")}
    pieces = sorted((folder / "pieces").glob("*.json"))
    # A run that was killed: the later half of the pieces is missing, one was being written.
    for piece in pieces[1:]:
        piece.unlink()
    (folder / "pieces" / ".half.json.17").write_text('{"a')
    for path in folder.glob("results.*.json"):
        path.unlink()
    run = []
    forward = torch.nn.Module.__call__
    monkeypatch.setattr(
        torch.nn.Module, "__call__", lambda self, *a, **k: (run.append(type(self).__name__), forward(self, *a, **k))[1]
    )
    again = scores(trained, tmp_path / "again", "--save-predictions", folder, "--resume-predictions")
    assert again == plain and run.count("PoolFormer") >= 1
    run.clear()
    whole = scores(trained, tmp_path / "whole", "--save-predictions", folder, "--resume-predictions")
    assert whole == plain and "PoolFormer" not in run
    assert {path.name: path.read_bytes() for path in folder.glob("results.*.json")} == kept
    capsys.readouterr()
    argv = [*trained, "--work-dir", str(tmp_path / "x"), "--save-predictions", str(folder)]
    assert test_tool.main(argv) == 1
    assert "it has predictions; add --resume-predictions to go on" in capsys.readouterr().err
    argv += ["--resume-predictions", "--cfg-options", "test_dataloader.batch_size=3"]
    assert test_tool.main(argv) == 1
    assert "its predictions are of another config" in capsys.readouterr().err


def test_augmented(trained, tmp_path, capsys):
    plain = scores(trained, tmp_path / "plain")
    capsys.readouterr()
    found = scores(trained, tmp_path / "tta", "--tta", "--out", tmp_path / "out.pkl")
    out = capsys.readouterr().out
    detection = "detection" in trained[0]
    assert ("bestiary.DetectorTTA, 2 views" if detection else "mmseg.SegTTAModel, 6 views") in out
    assert found.keys() == plain.keys()
    samples = pickle.loads((tmp_path / "out.pkl").read_bytes())
    assert len(samples) == 4
    for sample in samples:
        if detection:
            objects = sample["pred_instances"]
            assert 0 < len(objects["scores"]) <= 5 and len(objects["masks"]) == len(objects["scores"])
        else:
            assert sample["pred_sem_seg"]["data"].shape[-2:] == (64, 64)


def test_coco_backends_and_tables(trained, tmp_path, capsys):
    if "segmentation" in trained[0]:
        assert test_tool.main([*trained, "--work-dir", str(tmp_path), "--coco-backend", "faster"]) == 1
        assert "--coco-backend: test_evaluator has no CocoMetric" in capsys.readouterr().err
        return
    found = [scores(trained, tmp_path / name, "--coco-backend", name) for name in ("faster", "pycocotools")]
    assert len(found[0]) == 24
    assert found[0] == pytest.approx(found[1], abs=1e-9) or found[0] == found[1]
    plain = scores(trained, tmp_path / "plain")
    assert all(found[0][name] == value or abs(found[0][name] - value) < 0.00051 for name, value in plain.items())
    capsys.readouterr()
    scores(trained, tmp_path / "tables", "--coco-backend", "faster", "--per-class")
    out = capsys.readouterr().out
    assert "segm by size" in out and "bbox by class" in out and "disc" in out


def test_resume_without_a_folder(tmp_path):
    args = test_tool.argparse.Namespace(
        checkpoint="x.pth", coco_backend=None, out=None, show_dir=None, tta=False, save_predictions=None
    )
    args.resume_predictions = True
    with pytest.raises(InputError, match="name the folder by --save-predictions FOLDER"):
        test_tool.change(Config(dict(test_evaluator=dict(type="TopkAccuracy"))), args)


def test_a_classifiers_views_are_averaged():
    """Mean of the probabilities of two crops and their mirror images, by hand."""
    torch.manual_seed(0)
    arch = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), layer_scale_init=1.0)
    model = ImageClassifier(
        dict(type="bestiary.PoolFormer", arch=arch, out_indices=(3,)),
        dict(type="bestiary.LinearHead", in_channels=8, num_classes=4),
    ).eval()
    views = [[torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8) for _ in range(3)] for _ in range(2)]
    samples = [[ClassSample().set_gt_label(k) for k in range(3)] for _ in range(2)]
    with torch.no_grad():
        merged = tta.ClassifierTTA(model).test_step(dict(inputs=views, data_samples=samples))
        for k, sample in enumerate(merged):
            pictures = [picture for view in views for picture in (view[k], view[k].flip(-1))]
            alone = [model.test_step(dict(inputs=[p], data_samples=[ClassSample()]))[0].pred_score for p in pictures]
            torch.testing.assert_close(sample.pred_score, torch.stack(alone).mean(0))
            assert int(sample.gt_label) == k and int(sample.pred_label) == int(sample.pred_score.argmax())


def test_classifiers_pipeline_gets_crops_and_keeps_the_configs_own():
    steps = [dict(type="LoadPicture"), dict(type="TimmTransform", crop_pct=0.9), dict(type="PackImageInputs")]
    cfg = Config(dict(model=dict(type="ImageClassifier"), test_dataloader=dict(dataset=dict(pipeline=steps))))
    assert "bestiary.ClassifierTTA, 2 views" in tta.use_tta(cfg)
    crops = cfg.test_dataloader.dataset.pipeline[1].transforms[0]
    assert [crop.crop_pct for crop in crops] == [0.9, 1.0] and cfg.model.module.type == "ImageClassifier"
    own = dict(tta_model=dict(type="bestiary.ClassifierTTA", flip=False), tta_pipeline=steps)
    cfg = Config(dict(model=dict(type="X"), test_dataloader=dict(dataset=dict(pipeline=steps)), **own))
    assert "by the config's tta_model and tta_pipeline" in tta.use_tta(cfg)
    assert cfg.model.flip is False and cfg.model.module.type == "X"
    cfg = Config(dict(model={}, test_dataloader=dict(dataset=dict(pipeline=[dict(type="PackTrackInputs")]))))
    with pytest.raises(InputError, match="ends in PackTrackInputs, not in PackDetInputs"):
        tta.use_tta(cfg)


@pytest.mark.parametrize(("direction", "axes"), [("horizontal", (2,)), ("vertical", (1,)), ("diagonal", (1, 2))])
def test_masks_are_flipped_back(direction, axes):
    masks = torch.rand(2, 3, 5) > 0.5
    seen = torch.from_numpy(np.flip(masks.numpy(), axes).copy())
    assert torch.equal(tta.unflipped(seen, dict(flip=True, flip_direction=direction)), masks)
    assert torch.equal(tta.unflipped(masks, dict(flip=False)), masks)


def test_classifiers_predictions_come_back(tmp_path):
    torch.manual_seed(0)
    made = []
    for number in range(5):
        sample = ClassSample().set_gt_label(number).set_pred_score(torch.rand(7)).set_pred_label(number % 3)
        sample.set_metainfo(dict(img_path=f"a/{number}.jpg"))
        made.append(sample)
    saved = SavedPredictions(tmp_path, dict(checkpoint="1"))
    for sample in made[:3]:
        saved.add(sample)
    saved.flush("first")
    again = SavedPredictions(tmp_path, dict(checkpoint="1"), resume=True)
    assert [again.has(sample) for sample in made] == [True] * 3 + [False] * 2
    for sample in made[:3]:
        bare = ClassSample().set_gt_label(sample.gt_label)
        bare.set_metainfo(dict(img_path=sample.img_path))
        again.restore(bare)
        assert torch.equal(bare.pred_score, sample.pred_score) and torch.equal(bare.pred_label, sample.pred_label)
    parquet = pytest.importorskip("pyarrow.parquet")
    (path,) = again.finish()
    rows = parquet.read_table(path).to_pylist()
    assert [row["img_path"] for row in rows] == [f"a/{number}.jpg" for number in range(3)]
    assert rows[1]["pred_score"] == made[1].pred_score.tolist() and rows[2]["gt_label"] == 2


def test_another_configs_data(tmp_path, capsys):
    """A classifier on ImageNetV2's folders, whose numbers are the classes in another order than as text."""
    classes = 12
    rng = np.random.default_rng(0)
    for label in range(classes):
        (tmp_path / "v2" / str(label)).mkdir(parents=True)
        Image.fromarray(rng.integers(256, size=(48, 40, 3), dtype=np.uint8)).save(tmp_path / f"v2/{label}/a.png")
    pipeline = [dict(type="LoadPicture"), dict(type="TimmTransform", input_size=32), dict(type="PackImageInputs")]
    arch = dict(depths=(1, 1, 1, 1), dims=(8, 12, 16, 20))
    model = dict(
        type="ImageClassifier",
        backbone=dict(type="PoolFormer", arch=arch, out_indices=(3,)),
        head=dict(type="LinearHead", in_channels=20, num_classes=classes),
    )
    config = Config(
        dict(
            default_scope="bestiary",
            custom_imports=dict(imports=["bestiary"]),
            model=model,
            test_dataloader=dict(
                batch_size=5,
                sampler=dict(type="DefaultSampler", shuffle=False),
                dataset=dict(type="ImageFolder", data_root="nowhere", pipeline=pipeline),
            ),
            test_evaluator=dict(type="CalibrationError"),
            test_cfg=dict(type="TestLoop"),
        )
    )
    config.dump(str(tmp_path / "config.py"))
    network = MODELS.build(model)
    with torch.no_grad():  # its answer is 3 for all pictures
        network.head.fc.weight.zero_()
        network.head.fc.bias.copy_(torch.nn.functional.one_hot(torch.tensor(3), classes))
    torch.save(dict(state_dict=network.state_dict()), tmp_path / "weights.pth")
    shipped = Config.fromfile(str(SHIPPED / "_base_/datasets/imagenet_v2.py"))
    assert shipped.test_dataloader.dataset.classes == [str(number) for number in range(1000)]
    shipped.test_dataloader.dataset.update(data_root=str(tmp_path / "v2"), classes=[str(n) for n in range(classes)])
    shipped.test_evaluator.topk = (1,)
    shipped.dump(str(tmp_path / "v2.py"))
    argv = [str(tmp_path / "config.py"), str(tmp_path / "weights.pth"), "--data"]
    found = scores([*argv, str(tmp_path / "v2.py")], tmp_path / "work", "--out", tmp_path / "out.pkl")
    assert found == {"accuracy/top1": pytest.approx(1 / classes)}
    samples = pickle.loads((tmp_path / "out.pkl").read_bytes())
    assert len(samples) == classes and samples[0]["img_shape"] == (32, 32)  # prepared as the config has it
    for sample in samples:
        assert int(sample["gt_label"]) == int(Path(sample["img_path"]).parent.name)
    capsys.readouterr()
    assert test_tool.main([*argv, "imagenet_v3"]) == 1
    assert "imagenet_v3: no such config file" in capsys.readouterr().err
    assert test_tool.main([*argv, "imagenet_real"]) == 1
    assert "data/imagenet" in capsys.readouterr().err
