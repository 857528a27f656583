"""mmseg's own packaged configs on top of compat: build, a loss with backward, a prediction, on small random input."""

import pytest
import torch

from bestiary.tools.synthetic import segmentation_batch

SIZE = (71, 96)
CONFIGS = [
    "upernet/upernet_r18_4xb4-80k_ade20k-512x512.py",
    "sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py",
    "segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
    "mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py",
    "deeplabv3plus/deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    "pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py",
    "ocrnet/ocrnet_hr18s_4xb4-80k_ade20k-512x512.py",
    "point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py",
    "psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512.py",
    "ccnet/ccnet_r50-d8_4xb4-80k_ade20k-512x512.py",
]

WIDER = {  # one a folder besides; some take their own size alone, or whole strides
    "ann/ann_r50-d8_4xb4-80k_ade20k-512x512.py": SIZE,
    "apcnet/apcnet_r50-d8_4xb4-80k_ade20k-512x512.py": SIZE,
    "bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py": SIZE,
    "bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py": SIZE,
    "danet/danet_r50-d8_4xb4-80k_ade20k-512x512.py": SIZE,
    "ddrnet/ddrnet_23_in1k-pre_2xb6-120k_cityscapes-1024x1024.py": (128, 192),
    "deeplabv3/deeplabv3_r18-d8_4xb2-80k_cityscapes-769x769.py": SIZE,
    "dmnet/dmnet_r50-d8_4xb4-80k_ade20k-512x512.py": SIZE,
    "dnlnet/dnl_r50-d8_4xb4-80k_ade20k-512x512.py": SIZE,
    "dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py": SIZE,
    "emanet/emanet_r50-d8_4xb2-80k_cityscapes-769x769.py": SIZE,
    "encnet/encnet_r50-d8_4xb4-80k_ade20k-512x512.py": SIZE,
    "erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py": SIZE,
    "fastfcn/fastfcn_r50-d32_jpu_enc_4xb4-80k_ade20k-512x512.py": SIZE,
    "fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py": SIZE,
    "fcn/fcn_r18-d8_4xb2-80k_cityscapes-769x769.py": SIZE,
    "gcnet/gcnet_r50-d8_4xb4-80k_ade20k-512x512.py": SIZE,
    "hrnet/fcn_hr18_4xb4-80k_isaid-896x896.py": SIZE,
    "icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py": SIZE,
    "isanet/isanet_r50-d8_4xb4-80k_ade20k-512x512.py": SIZE,
    "knet/knet-s3_swin-t_upernet_8xb2-adamw-80k_ade20k-512x512.py": SIZE,
    "maskformer/maskformer_swin-t_upernet_8xb2-160k_ade20k-512x512.py": SIZE,
    "mobilenet_v2/mobilenet-v2-d8_fcn_4xb4-160k_ade20k-512x512.py": SIZE,
    "mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024.py": (512, 512),
    "nonlocal_net/nonlocal_r50-d8_4xb4-80k_ade20k-512x512.py": SIZE,
    "resnest/resnest_s101-d8_fcn_4xb4-160k_ade20k-512x512.py": SIZE,
    "segmenter/segmenter_vit-s_fcn_8xb1-160k_ade20k-512x512.py": SIZE,
    "segnext/segnext_mscan-b_1xb16-adamw-160k_ade20k-512x512.py": SIZE,
    "setr/setr_vit-l-mla_8xb1-160k_ade20k-512x512.py": SIZE,
    "stdc/stdc1_4xb12-80k_cityscapes-512x1024.py": SIZE,
    "swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py": SIZE,
    "twins/twins_svt-b_uperhead_8xb2-160k_ade20k-512x512.py": SIZE,
    "unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py": (64, 64),
    "vit/vit_deit-b16_upernet_8xb2-80k_ade20k-512x512.py": SIZE,
}
# Left out: convnext and poolformer (mmpretrain), vpd (packages of its own), san (starts from weights only), beit and
# mae (their own large size alone: minutes), cgnet and pidnet (their loss looks the ignored label up in class weights).


def step_and_predict(path, size, packaged, train_step):
    """One training step of two pictures, then the prediction for one."""
    model, _ = packaged("mmseg", path, {"data_preprocessor.size": size})
    classes = model.num_classes
    train_step(model, segmentation_batch(size, classes, 2))
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(segmentation_batch(size, classes, 1), training=False), mode="predict")
    assert len(results) == 1
    labels, logits = results[0].pred_sem_seg.data, results[0].seg_logits.data
    assert labels.shape == (1, *size) and labels.min() >= 0 and labels.max() < classes
    assert logits.shape[1:] == size and torch.isfinite(logits).all()
    return classes, labels, logits


@pytest.mark.parametrize("path", CONFIGS)
def test_packaged_config(path, packaged, train_step):
    classes, labels, logits = step_and_predict(path, SIZE, packaged, train_step)
    assert len(logits) == classes and torch.equal(labels, logits.argmax(dim=0, keepdim=True))
    assert (logits.amax(dim=(1, 2)) - logits.amin(dim=(1, 2))).max() > 1e-6  # they depend on the pixels


@pytest.mark.slow
@pytest.mark.parametrize(("path", "size"), WIDER.items(), ids=WIDER)
def test_other_families(path, size, packaged, train_step):
    step_and_predict(path, size, packaged, train_step)
