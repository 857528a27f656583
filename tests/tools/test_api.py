"""bestiary.load: the same predictions whatever a picture is given as; names of configs; bad input."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import supervision as sv
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask

import bestiary
from bestiary.engine import api
from bestiary.engine.asked import class_numbers
from bestiary.engine.configs import load_config
from bestiary.engine.picture_result import coco_ids
from bestiary.errors import InputError
from bestiary.registry import MODELS

PICTURES = {"detection": "coco/val", "segmentation": "seg/images/val", "classification": "cls/val"}
ALL = {"detection": 0.0, "segmentation": None, "classification": None}  # scores below which nothing is left out


@pytest.fixture(scope="module")
def folders(tiny, tmp_path_factory):
    """Task: a folder with the data's pictures and some of other sizes, so that a batch has several."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    for task, source in PICTURES.items():
        shutil.copytree(tiny / source, root / task)
        for number, size in enumerate(((48, 80), (100, 40), (48, 80))):
            picture = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
            Image.fromarray(picture).save(root / task / f"z{number}.png")
    return {task: root / task for task in PICTURES}


@pytest.fixture(scope="module")
def models(tiny, tmp_path_factory):
    """load(task) -> Model with untrained weights."""

    folder = tmp_path_factory.mktemp("weights")

    def load(task, weights_alone=False, **kwargs):
        weights = folder / f"{task}.pth"
        if not weights.is_file():
            cfg = load_config(str(tiny / f"{task}.py"))
            init_default_scope(cfg.default_scope)
            torch.manual_seed(3)
            torch.save({"state_dict": MODELS.build(cfg.model).state_dict(), "meta": {}}, weights)
        return weights if weights_alone else bestiary.load(tiny / f"{task}.py", weights, device="cpu", **kwargs)

    return load


def same(a, b):
    assert (a.task, a.labels.shape) == (b.task, b.labels.shape) and (a.labels == b.labels).all()
    for name in ("scores", "boxes"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, atol=1e-4)
    assert a.masks is None or (a.masks == b.masks).all()


@pytest.mark.parametrize("task", PICTURES)
def test_batches_and_every_form_of_a_picture(folders, models, task):
    model = models(task)
    folder = folders[task]
    found = model(folder, score=ALL[task], batch=4)
    assert len({result.picture.shape for result in found}) > 2 and found[0].task == task
    one_by_one = [model(result.name, score=ALL[task], batch=1) for result in found]
    for together, alone in zip(found, one_by_one, strict=True):
        same(together, alone)
    array = np.asarray(Image.open(found[-1].name).convert("RGB"))
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = [array, Image.fromarray(array), tensor, tensor / 255, str(found[-1].name)]
    for given in forms[:1] if task == "detection" else forms:
        same(model(given, score=ALL[task]), found[-1])
    several = model([array, found[0].name, tensor[None].repeat(2, 1, 1, 1)], score=ALL[task])
    for result, wanted in zip(several, (found[-1], found[0], found[-1], found[-1]), strict=True):
        same(result, wanted)
    backwards = model(np.ascontiguousarray(array[..., ::-1]), score=ALL[task])  # RGB, not BGR
    assert task == "segmentation" or not np.allclose(backwards.scores, found[-1].scores, atol=1e-6)
    assert len(model(f"{folder}/**/*.png")) == len(found)


def test_detections_in_other_forms(tiny, models, tmp_path):
    result = models("detection")(tiny / "coco/val/000.png", score=0.0)
    assert len(result.boxes) == len(result.labels) == len(result.scores) == len(result.masks) == 5
    assert (np.diff(result.scores) <= 0).all() and result.names[0] == result.classes[result.labels[0]]
    objects = result.to_coco(image_id=7, category_ids=[30, 40])
    for i, entry in enumerate(objects):
        x, y, width, height = entry["bbox"]
        assert entry["image_id"] == 7 and entry["category_id"] == (30, 40)[result.labels[i]]
        np.testing.assert_allclose([x, y, x + width, y + height], result.boxes[i], rtol=1e-6)
        assert (coco_mask.decode(entry["segmentation"]).astype(bool) == result.masks[i]).all()
    given = result.to_supervision()
    assert isinstance(given, sv.Detections) and (given.mask == result.masks).all()
    assert given.data["class_name"].tolist() == result.names and (given.confidence == result.scores).all()
    record = json.loads(json.dumps(result.to_dict()))
    assert len(record["detections"]) == 5 and (record["height"], record["width"]) == (64, 64)
    drawn = np.asarray(Image.open(result.save(tmp_path / "new" / "drawn.jpg")))
    assert drawn.shape == (512, 512, 3) and result._repr_png_()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match="drawn.xyz: the picture cannot be written"):
        result.save(tmp_path / "drawn.xyz")
    with pytest.raises(InputError, match="the picture cannot be written"):
        result.save(tmp_path / "new" / "drawn.jpg" / "x.png")


def test_classes_and_scores_that_are_asked_for(tiny, models):
    picture = tiny / "coco/val/000.png"
    model = models("detection")
    everything = model(picture, score=0.0)
    middle = float(np.median(everything.scores))
    assert len(model(picture, score=middle).scores) == (everything.scores >= middle).sum()
    for label, name in enumerate(model.classes):
        assert len(model(picture, score=0.0, classes=[name]).labels) == (everything.labels == label).sum()
    model = models("segmentation")
    picture = tiny / "seg/images/val/000.png"
    labels, chosen = model(picture).labels, model(picture, classes=["disc", 0])
    kept = np.isin(labels, (0, 2))
    assert (chosen.labels[kept] == labels[kept]).all() and (chosen.labels[~kept] == 255).all() and not kept.all()
    assert "square" not in chosen.names and "class 255" not in str(chosen.to_dict())
    ((_, sample),) = model.predictor.samples(api.pictures_of(picture))
    likely = sample.seg_logits.data.double().exp()
    likely = (likely / likely.sum(0)).amax(0).numpy()
    threshold = float(np.median(likely))
    sure = model(picture, score=threshold).labels != 255
    assert (sure == (likely >= threshold))[abs(likely - threshold) > 1e-6].all() and 0.3 < sure.mean() < 0.7
    given = model(picture).to_supervision()
    assert (given.mask == (labels[None] == given.class_id[:, None, None])).all()
    model = models("classification")
    picture = next((tiny / "cls/val/disc").iterdir())
    best = model(picture)
    assert best.scores.sum() == pytest.approx(1, abs=1e-5) and len(model(picture, top_k=2).labels) == 2
    two = model(picture, classes=["none", "square"])
    where = [list(best.labels).index(label) for label in two.labels]
    assert set(two.names) == {"none", "square"} and two.scores.tolist() == best.scores[where].tolist()
    assert len(model(picture, score=1.0).labels) == 0
    assert isinstance(best.to_supervision(), sv.Classifications)


@pytest.mark.parametrize("task", [pytest.param("detection", marks=pytest.mark.slow), "segmentation"])
def test_test_time_augmentation(folders, models, task):
    model = models(task, tta=True)
    assert "views in the pipeline" in model.tta
    folder = folders[task]
    found = model(folder, score=ALL[task], batch=3)
    for result in found[-2:]:
        same(result, model(result.name, score=ALL[task]))
    plain = models(task)(folder, score=ALL[task])
    pairs = list(zip(found, plain, strict=True))
    if task == "segmentation":
        with pytest.raises(InputError, match="score: test-time augmentation leaves no probabilities of pixels"):
            model(folder, score=0.5)
    if task == "detection":
        assert any(a.scores.shape != b.scores.shape or not np.allclose(a.scores, b.scores) for a, b in pairs)
    else:
        assert any((a.labels != b.labels).any() for a, b in pairs)


def test_showing(tiny, models, monkeypatch):
    result = models("segmentation")(tiny / "seg/images/val/000.png")
    shown = []
    monkeypatch.setattr("PIL.ImageShow.show", lambda picture, title: not shown.append((picture.size, title)))
    result.show()
    assert shown == [(result.draw().shape[1::-1], result.name)]
    monkeypatch.setattr("PIL.ImageShow.show", lambda picture, title: False)
    with pytest.raises(InputError, match="show: no viewer of pictures on this machine"):
        result.show()


def test_a_work_directory_gives_config_and_best_weights(tiny, models, tmp_path):
    weights = models("classification", weights_alone=True)
    (tmp_path / "run.py").write_text(load_config(str(tiny / "classification.py")).pretty_text)
    state = torch.load(weights, weights_only=True)
    torch.save(state, tmp_path / "epoch_2.pth")
    (tmp_path / "last_checkpoint").write_text("/elsewhere/epoch_2.pth")
    picture = next((tiny / "cls/val/disc").iterdir())
    assert bestiary.load(tmp_path).checkpoint == str(tmp_path / "epoch_2.pth")
    state["state_dict"]["head.fc.bias"] += torch.tensor([0.0, 0.0, 50.0])
    torch.save(state, tmp_path / "best_top1_epoch_1.pth")
    model = bestiary.load(str(tmp_path), device="cpu")
    assert model.checkpoint.endswith("best_top1_epoch_1.pth") and model(picture).names[0] == "none"
    assert bestiary.load(tiny / "classification", tmp_path).checkpoint == model.checkpoint


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("quickstart/mask_rcnn_poolformer_digits", "quickstart/mask_rcnn_poolformer_digits.py"),
        ("mask_rcnn_poolformer", "quickstart/mask_rcnn_poolformer_digits.py"),
        ("davit_tiny", "davit/davit-tiny_8xb128_in1k.py"),
        ("upernet_nat_tiny", "nat/upernet_nat-tiny_8xb2-160k_ade20k-512x512.py"),
        ("fpn_poolformer-s12", "poolformer/fpn_poolformer-s12_8xb4-40k_ade20k-512x512.py"),
    ],
)
def test_names_of_configs(name, found):
    assert api.config_named(name).as_posix().endswith(f"configs/{found}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask-rcnn_davit", r"mask-rcnn_davit: 7 configs are called so: davit/mask-rcnn_davit-base_fpn_1x_coco, "),
        ("davit_tinny", r"davit_tinny: no such config; did you mean davit/davit-tiny_8xb128_in1k"),
        ("x/y.py", r"x/y.py: no such config file"),
    ],
)
def test_names_that_are_none(name, message):
    with pytest.raises(InputError, match=message):
        api.config_named(name)


def test_loading_what_does_not_fit(tiny, models, tmp_path):
    weights, others = (models(task, weights_alone=True) for task in ("detection", "segmentation"))
    with pytest.raises(InputError, match="segmentation.pth: a checkpoint of another model: no key|does not fit this"):
        bestiary.load(tiny / "detection.py", others)
    with pytest.raises(InputError, match="name its checkpoint, too"):
        bestiary.load("davit_tiny")
    with pytest.raises(InputError, match="a folder, not a checkpoint, and no training left one there"):
        bestiary.load("davit_tiny", tmp_path)
    with pytest.raises(InputError, match="a folder without the config of a training"):
        api.config_named(str(tmp_path))
    with pytest.raises(InputError, match="its classes come from the data that it is trained on"):
        bestiary.load("mydata/mask-rcnn_poolformer", weights)
    with pytest.raises(InputError, match="device 'cuda:9': not on this machine|device 'nonsense'"):
        bestiary.load(tiny / "detection.py", weights, device="cuda:9")


def test_pictures_that_are_none(tiny, models, tmp_path):
    model = models("classification")
    (tmp_path / "text.png").write_text("hello")
    for given, message in (
        (tmp_path / "text.png", "text.png: cannot be decoded"),
        (tmp_path / "no.png", "no.png: no such picture or folder"),
        (str(tmp_path / "*.tif"), "no picture fits this pattern"),
        (np.zeros((4, 5, 3), np.float32), "an array of float32; expected uint8"),
        (np.zeros((4, 5, 4), np.uint8), r"shape \(4, 5, 4\); expected \(H, W, 3\) in RGB"),
        (torch.full((3, 4, 5), 200.0), r"a tensor of 200..200; expected floating point of 0..1"),
        (np.zeros((9, 9, 3), np.uint8), "an array: PoolFormer: the input must be .* at least 32, got"),
        (torch.zeros(1, 4, 5), r"a tensor of shape \(1, 4, 5\)"),
        ({"a": 1}, "a picture is given as dict"),
    ):
        with pytest.raises(InputError, match=message):
            model(given)
    with pytest.raises(InputError, match=r"no class 'dics' \(did you mean 'disc'\?\); the model's 3 are square, disc"):
        model(np.zeros((9, 9, 3), np.uint8), classes=["dics"])
    with pytest.raises(InputError, match="no class number 3; the model has 3"):
        class_numbers([3], model.classes)
    with pytest.raises(InputError, match="to_coco: COCO's results are of objects; this is a classification"):
        model(np.zeros((40, 40, 3), np.uint8)).to_coco()


def test_timm_weights_by_address(monkeypatch):
    """The address is resolved, converted and loaded; timm's download alone is left out."""
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("poolformer_s12", num_classes=1000).eval()
    monkeypatch.setattr("bestiary.checkpoints.schemes.timm.create_model", lambda *args, **kwargs: theirs)
    model = bestiary.load("poolformer_s12", "timm://poolformer_s12.sail_in1k", device="cpu")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8))
    result = model(picture, top_k=1000)
    data = model.predictor._prepare(api.pictures_of(picture)[0])
    with torch.inference_mode():
        inputs = model.predictor.model.data_preprocessor(pseudo_collate([data]))["inputs"]
        # The authors' head norms before it pools; timm's has it the other way round.
        feats, norm = theirs.forward_features(inputs), theirs.head.norm
        pooled = torch.nn.functional.group_norm(feats, 1, norm.weight, norm.bias).mean((2, 3))
        wanted = theirs.head.fc(pooled).softmax(-1)[0].numpy()
    np.testing.assert_allclose(result.scores, wanted[result.labels], rtol=1e-3, atol=1e-6)
    assert len(model.classes) == 1000 and model.classes[1].startswith("goldfish")


def test_coco_numbers_its_80_classes_with_gaps():
    from mmdet.datasets import CocoDataset

    ids = coco_ids(list(CocoDataset.METAINFO["classes"]))
    assert ids[0] == 1 and ids[-1] == 90 and len(ids) == 80 and 12 not in ids and 91 not in ids
    assert coco_ids(["a", "b"]) == [1, 2]


def test_importing_the_package_stays_light():
    light = "import sys, bestiary; print(*{'torch', 'mmengine', 'mmdet', 'wandb', 'supervision'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "" and bestiary.load is api.load
