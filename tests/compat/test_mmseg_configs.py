"""mmseg's own packaged configs on top of compat: build, a loss with backward, a prediction, on small random input."""

import pytest
import torch

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


def batch(size, num_classes, count, seed=0):
    """Random pictures in blocks of random classes, a tenth of the pixels ignored."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for index in range(count):
        labels = torch.randint(num_classes, (1, *(-(-side // 24) for side in size)), generator=generator)
        labels = labels.repeat_interleave(24, 1).repeat_interleave(24, 2)[:, : size[0], : size[1]].clone()
        labels[torch.rand(labels.shape, generator=generator) < 0.1] = 255
        shape = dict(img_id=index, img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0), flip=False)
        samples.append(SegDataSample(metainfo=shape, gt_sem_seg=PixelData(data=labels)))
        inputs.append(torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8))
    return dict(inputs=inputs, data_samples=samples)


@pytest.mark.parametrize("path", CONFIGS)
def test_packaged_config(path, packaged, train_step):
    model, _ = packaged("mmseg", path, {"data_preprocessor.size": SIZE})
    classes = model.num_classes
    train_step(model, batch(SIZE, classes, 2))
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch(SIZE, classes, 1), training=False), mode="predict")
    assert len(results) == 1
    labels, logits = results[0].pred_sem_seg.data, results[0].seg_logits.data
    assert logits.shape == (classes, *SIZE) and torch.isfinite(logits).all()
    assert torch.equal(labels, logits.argmax(dim=0, keepdim=True))
    assert (logits.amax(dim=(1, 2)) - logits.amin(dim=(1, 2))).max() > 1e-6  # they depend on the pixels
