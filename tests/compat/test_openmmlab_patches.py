"""What is mended in mmdet and mmseg: colours, a teacher's path, masks outside, weights that nobody sets, layouts."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

import bestiary  # noqa: F401  (it mends what is imported here)

KNOWN = {  # as colour calculators give them, D65, 2 degrees
    (255, 255, 255): (100, 0, 0),
    (0, 0, 0): (0, 0, 0),
    (255, 0, 0): (53.24, 80.09, 67.20),
    (0, 255, 0): (87.73, -86.18, 83.18),
    (0, 0, 255): (32.30, 79.19, -107.86),
    (128, 128, 128): (53.59, 0, 0),
}


def test_colours_of_box_inst():
    from mmdet.models.data_preprocessors import data_preprocessor

    to_lab = data_preprocessor.skimage.color.rgb2lab
    known = to_lab(np.array([[*KNOWN]], np.uint8))
    np.testing.assert_allclose(known[0], [*KNOWN.values()], atol=0.02)
    picture = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    picture[0, 0] = 4, 9, 10  # the curves' straight pieces
    lab = to_lab(picture)
    expected = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)  # by table, good to 0.3 of 100
    np.testing.assert_allclose(lab, expected, atol=0.3)
    np.testing.assert_allclose(to_lab(picture / 255), lab, atol=1e-12)


def masks_and_boxes(*boxes):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(len(boxes), 1, 7, 7, generator=generator), torch.tensor(boxes)


OUTSIDE = dict(right=[40.0, 3, 60, 9], left=[-60.0, 3, -40, 9], below=[3.0, 40, 9, 60], above=[3.0, -60, 9, -40])


@pytest.mark.parametrize("box", OUTSIDE.values(), ids=OUTSIDE)
def test_a_mask_whose_box_lies_outside_is_empty(box):
    from mmdet.models.roi_heads.mask_heads import fcn_mask_head

    masks, boxes = masks_and_boxes(box)
    pasted, where = fcn_mask_head._do_paste_mask(masks, boxes, 20, 24, skip_empty=True)
    whole = torch.zeros(1, 20, 24)
    whole[(slice(None), *where)] = pasted
    assert not whole.any()


def test_masks_inside_are_pasted_as_before():
    from mmdet.models.roi_heads.mask_heads import fcn_mask_head

    masks, boxes = masks_and_boxes([3.2, 4.1, 11.7, 15.0], [40.0, 3, 60, 9])  # one of two outside
    part, where = fcn_mask_head._do_paste_mask(masks, boxes, 20, 24, skip_empty=True)
    everything, _ = fcn_mask_head._do_paste_mask(masks, boxes, 20, 24, skip_empty=False)
    whole = torch.zeros(2, 20, 24)
    whole[(slice(None), *where)] = part
    assert where and part.shape[1:] != (20, 24)
    torch.testing.assert_close(whole, everything)


def test_lds_teacher_is_found_in_the_wheel(tmp_path, monkeypatch):
    from mmdet.models.detectors import kd_one_stage

    read = []
    monkeypatch.setattr(kd_one_stage.Config, "fromfile", lambda path: read.append(path) or 1 / 0)
    detector = kd_one_stage.KnowledgeDistillationSingleStageDetector
    monkeypatch.setattr(
        kd_one_stage.SingleStageDetector, "__init__", lambda self, **kwargs: torch.nn.Module.__init__(self)
    )
    own = tmp_path / "teacher.py"
    own.write_text("model = dict()")
    for given, ending in (
        ("configs/gfl/gfl_r101_fpn_ms-2x_coco.py", "/mmdet/.mim/configs/gfl/gfl_r101_fpn_ms-2x_coco.py"),
        (str(own), str(own)),
        ("configs/no/such.py", "configs/no/such.py"),
    ):
        with pytest.raises(ZeroDivisionError):
            detector(backbone={}, neck={}, bbox_head={}, teacher_config=given)
        assert read.pop().endswith(ending)


def scribble():
    """Fill memory that is freed at once with what is no number: what is not set then shows."""
    for size in (1 << 10, 1 << 14, 1 << 18):
        torch.full((size,), float("nan"))


def test_trident_weights_have_values():
    from mmdet.models.backbones.trident_resnet import TridentConv

    scribble()
    layer = TridentConv(64, 48, 3, bias=True)
    assert abs(layer.weight.std().item() / (2 / (48 * 9)) ** 0.5 - 1) < 0.03
    assert abs(layer.weight.mean().item()) < 0.002
    assert not layer.bias.any() and layer.weight.requires_grad


def test_text_encoder_of_san_has_values():
    from mmseg.models.text_encoder import CLIPTextEncoder

    scribble()
    with DefaultScope.overwrite_default_scope("mmseg"):
        encoder = CLIPTextEncoder(vocabulary=["cat"], templates=["a {}"], embed_dims=64, num_layers=1, output_dims=48)
    assert abs(encoder.positional_embedding.std().item() / 0.01 - 1) < 0.05
    assert abs(encoder.text_projection.std().item() / 64**-0.5 - 1) < 0.05


def test_sans_recognition_without_weights():
    from mmseg.models.decode_heads.san_head import RecWithAttnbias

    part = RecWithAttnbias(sos_token_num=3, num_layers=1, embed_dims=16, num_heads=2, out_dims=8)
    before = part.proj.weight.clone()
    part.init_weights(None)
    assert torch.equal(part.proj.weight, before)
    part.init_weights({"proj.weight": before + 1})
    assert torch.equal(part.proj.weight, before + 1)


def test_dynamic_filters_take_channels_last():
    from mmseg.models.decode_heads.dm_head import DCM

    torch.manual_seed(0)
    part = DCM(3, False, 6, 4, None, dict(type="BN"), ConfigDict(type="ReLU")).eval()
    x = torch.randn(2, 6, 9, 11)
    torch.testing.assert_close(part(x.contiguous(memory_format=torch.channels_last)), part(x))


def test_peaks_of_heatmaps_with_channels_last():
    from mmdet.models.dense_heads import centernet_head

    heatmap = torch.rand(2, 5, 7, 9, generator=torch.Generator().manual_seed(0))
    found = centernet_head.get_topk_from_heatmap(heatmap.contiguous(memory_format=torch.channels_last), k=4)
    for one, picture in enumerate(heatmap):
        best = picture.flatten().topk(4).indices
        assert torch.equal(found[0][one], picture.flatten()[best])
        assert torch.equal(found[2][one], best // 63)  # the class
        assert torch.equal(found[3][one], best % 63 // 9) and torch.equal(found[4][one], best % 9)  # y, x
