"""Steps of a classification pipeline: what timm and torchvision give, unchanged, and what is refused."""

import pickle
import random

import numpy as np
import pytest
import timm
import torch
from mmengine.dataset import Compose
from mmengine.model import ImgDataPreprocessor
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from bestiary.errors import InputError
from bestiary.inputs.class_sample import ClassSample
from bestiary.inputs.transforms import LoadPicture, PackImageInputs, TimmTransform, TorchvisionTransform


def picture(height=37, width=53, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def seeded(run, seed=0):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return run()


def pixels(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_load_gives_rgb(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    picture().convert(mode).save(path)
    found = LoadPicture()(dict(img_path=str(path)))
    assert found["img"].mode == "RGB" and found["ori_shape"] == found["img_shape"] == (37, 53)
    assert np.array_equal(np.array(found["img"]), np.array(Image.open(path).convert("RGB")))


def test_timm_is_timm_without_normalising():
    """Evaluation: uint8, normalised afterwards by the preprocessor, is what timm gives."""
    settings = dict(input_size=(3, 32, 24), crop_pct=0.9, interpolation="bicubic")
    raw = TimmTransform(**settings)(dict(img=picture()))["img"]
    theirs = timm.data.create_transform(**settings)(picture())
    assert raw.dtype == torch.uint8 and raw.shape == (3, 32, 24)
    mean, std = (
        tuple(255 * v for v in values) for values in (timm.data.IMAGENET_DEFAULT_MEAN, timm.data.IMAGENET_DEFAULT_STD)
    )
    ours = ImgDataPreprocessor(mean=mean, std=std)(dict(inputs=[raw]), False)["inputs"][0]
    assert torch.allclose(ours, theirs, atol=1e-5)
    normal = TimmTransform(**settings, normalize=True)(dict(img=picture()))["img"]
    assert normal.dtype == torch.float32 and torch.equal(normal, theirs)


def test_timm_training_follows_the_seeds():
    step = TimmTransform(21, is_training=True, auto_augment="rand-m9-mstd0.5-inc1", color_jitter=None)
    a, b, c = (seeded(lambda: step(dict(img=picture()))["img"], seed) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c) and a.shape == (3, 21, 21) and a.dtype == torch.uint8
    unpickled = pickle.loads(pickle.dumps(step))
    assert torch.equal(a, seeded(lambda: unpickled(dict(img=picture()))["img"], 1))


def test_timm_flips_unless_told():
    def flipped(**settings):
        step = TimmTransform(37, is_training=True, scale=(1, 1), ratio=(1, 1), color_jitter=None, **settings)
        square = picture(37, 37)
        return [torch.equal(step(dict(img=square))["img"], pixels(square).flip(-1)) for _ in range(20)]

    random.seed(0)
    torch.manual_seed(0)
    assert 0 < sum(flipped()) < 20 and not any(flipped(hflip=0.0)) and all(flipped(hflip=1.0))


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(auto_aug="rand"), r"no setting 'auto_aug' \(did you mean 'auto_augment'\?\); there are input_size"),
        (dict(use_prefetcher=True), "no setting 'use_prefetcher'"),
        (dict(separate=True), "no setting 'separate'"),
        (dict(is_training=True, re_prob=0.2), r"re_prob=0\.2: timm erases in normalised pictures alone"),
    ],
)
def test_timm_settings_that_do_not_fit(settings, message):
    with pytest.raises(InputError, match=message):
        TimmTransform(**settings)


def test_erasing_as_the_refusal_advises():
    steps = TimmTransform(32), TorchvisionTransform([dict(type="RandomErasing", p=1.0, value=7)])
    erased = steps[1](steps[0](dict(img=picture(60, 60))))["img"]
    assert erased.dtype == torch.uint8 and (erased == 7).all(dim=0).any()
    step = TimmTransform(32, is_training=True, normalize=True, re_prob=1.0, re_mode="pixel", color_jitter=None)
    assert step(dict(img=Image.new("RGB", (40, 40))))["img"].unique().numel() > 10


def test_torchvision_is_torchvision():
    step = TorchvisionTransform(
        [
            dict(type="RandomResizedCrop", size=[19, 26], interpolation="bicubic", antialias=True),
            dict(type="RandomApply", p=1.0, transforms=[dict(type="RandomHorizontalFlip", p=1.0)]),
            dict(type="PILToTensor"),
            dict(type="ToDtype", dtype="float32", scale=True),
        ]
    )
    ours = seeded(lambda: pickle.loads(pickle.dumps(step))(dict(img=picture()))["img"])
    crop = v2.RandomResizedCrop([19, 26], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    theirs = F.pil_to_tensor(F.horizontal_flip(seeded(lambda: crop(picture())))).float() / 255
    assert ours.shape == (3, 19, 26) and torch.allclose(ours, theirs)
    assert "RandomResizedCrop" in repr(step)


def test_torchvision_without_steps_changes_nothing():
    assert TorchvisionTransform([])(dict(img=picture()))["img"] == picture()


@pytest.mark.parametrize(
    "step, message",
    [
        (
            dict(type="RandomResizeCrop", size=3),
            "v2 has no transform 'RandomResizeCrop'; did you mean 'RandomResizedCrop'",
        ),
        (dict(type="InterpolationMode"), "has no transform 'InterpolationMode'"),
        (dict(size=3), "has no transform None"),
        (dict(type="Resize", size=3, interpolation="cubic"), "Resize: no interpolation 'cubic'; there are nearest"),
        (dict(type="ToDtype", dtype="float"), "got"),
        (dict(type="ToDtype", dtype="half32"), "torch has no dtype 'half32'"),
        (dict(type="Resize", sizes=3), "TorchvisionTransform: Resize: .*sizes"),
        (dict(type="RandomApply", transforms=[dict(type="Nothing")]), "has no transform 'Nothing'"),
    ],
)
def test_torchvision_steps_that_do_not_fit(step, message):
    if step.get("dtype") == "float":  # torch.float is a dtype: taken
        assert (
            TorchvisionTransform([step])(dict(img=torch.ones(3, 2, 2, dtype=torch.uint8)))["img"].dtype == torch.float
        )
        return
    with pytest.raises(InputError, match=message):
        TorchvisionTransform([step])


@pytest.mark.parametrize("step", [TimmTransform(8), TorchvisionTransform([])])
def test_bgr_arrays_are_refused(step):
    with pytest.raises(
        InputError, match="got an array: load with dict.type='LoadPicture'. in place of LoadImageFromFile"
    ):
        step(dict(img=np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)))


def test_pack():
    results = dict(img=picture(), img_path="a.png", ori_shape=(70, 90), img_shape=(70, 90), gt_label=3, scale=2)
    packed = PackImageInputs()(results)
    assert torch.equal(packed["inputs"], pixels(picture())) and packed["inputs"].is_contiguous()
    sample = packed["data_samples"]
    assert isinstance(sample, ClassSample) and sample.gt_label.tolist() == [3]
    assert sample.metainfo == dict(img_path="a.png", ori_shape=(70, 90), img_shape=(37, 53))
    assert "gt_label" not in PackImageInputs()(dict(img=picture()))["data_samples"]
    grey = PackImageInputs(meta_keys=("scale",))(dict(results, img=picture().convert("L")))
    assert grey["inputs"].shape == (1, 37, 53) and grey["data_samples"].metainfo == dict(scale=2)
    image = F.to_image(picture())
    assert type(PackImageInputs()(dict(img=image))["inputs"]) is torch.Tensor
    with pytest.raises(InputError, match="takes a PIL picture or a tensor, got ndarray"):
        PackImageInputs()(dict(img=np.ones((3, 3, 3))))


def test_a_pipeline_of_a_picture_alone(tmp_path):
    """As `bestiary infer` runs it: no label, no index."""
    picture().save(tmp_path / "x.png")
    steps = ["LoadPicture", "TimmTransform", "PackImageInputs"]
    pipeline = Compose([dict(type=f"bestiary.{step}") for step in steps])
    packed = pipeline(dict(img_path=str(tmp_path / "x.png")))
    assert packed["inputs"].shape == (3, 224, 224) and packed["data_samples"].ori_shape == (37, 53)


def test_class_sample_holds_tensors():
    sample = ClassSample().set_gt_label(2).set_pred_label(torch.tensor(1)).set_pred_score(torch.rand(4))
    assert sample.gt_label.dtype == torch.int64 and sample.gt_label.shape == sample.pred_label.shape == (1,)
    assert sample.to_dict().keys() == {"gt_label", "pred_label", "pred_score"}
