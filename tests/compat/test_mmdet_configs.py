"""mmdet's own packaged configs on top of compat: build, a loss with backward, a prediction, on small random input."""

import pytest
import torch

from bestiary.tools.synthetic import asked_of_data, detection_batch, keep_a_few_unsure

SIZES = ((121, 128), (128, 107))  # of the two pictures of a batch
SMALL = ((61, 64), (64, 53))  # where every proposal costs as much as a picture
CONFIGS = {
    "mask_rcnn/mask-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py": SMALL,
    "retinanet/retinanet_r18_fpn_1x_coco.py": SIZES,
    "fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco.py": SIZES,
    "atss/atss_r18_fpn_8xb8-amp-lsj-200e_coco.py": SIZES,
    "cascade_rcnn/cascade-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py": SMALL,
    "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py": SIZES,
    "mask2former/mask2former_r50_8xb2-lsj-50e_coco.py": SIZES,
    "rtmdet/rtmdet_tiny_8xb32-300e_coco.py": SIZES,
    "rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py": ((128, 96),) * 2,  # as from its pipeline: one size, of whole strides
    "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py": ((320, 320),) * 2,  # mended: it could not predict
    "yolox/yolox_tiny_8xb8-300e_coco.py": SIZES,
    "dcn/faster-rcnn_r50_fpn_dpool_1x_coco.py": SMALL,
    "dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py": SMALL,
    "carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py": SMALL,
}

SQUARE = ((128, 128),) * 2  # whole strides, one size
WIDER = {  # one a folder besides, and what takes its time
    "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py": SMALL,
    "dino/dino-4scale_r50_8xb2-12e_coco.py": ((208, 203),),  # 900 queries want 900 tokens
    "solov2/solov2-light_r18_fpn_ms-3x_coco.py": SIZES,
    "dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py": SMALL,
    "dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco.py": SMALL,
    "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py": SMALL,
    "autoassign/autoassign_r50-caffe_fpn_1x_coco.py": SMALL,
    "cascade_rpn/cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco.py": SMALL,
    "centernet/centernet_r18_8xb16-crop512-140e_coco.py": SQUARE,
    "centripetalnet/centripetalnet_hourglass104_16xb6-crop511-210e-mstest_coco.py": SQUARE,
    "condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py": SMALL,
    "conditional_detr/conditional-detr_r50_8xb2-50e_coco.py": SMALL,
    "cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py": SQUARE,
    "crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman.py": SMALL,
    "dab_detr/dab-detr_r50_8xb2-50e_coco.py": SMALL,
    "ddod/ddod_r50_fpn_1x_coco.py": SMALL,
    "ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py": SMALL,
    "detectors/htc_r50-rfp_1x_coco.py": SMALL,
    "detr/detr_r18_8xb2-500e_coco.py": SMALL,
    "double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py": SMALL,
    "dyhead/atss_r50_fpn_dyhead_1x_coco.py": SMALL,
    "dynamic_rcnn/dynamic-rcnn_r50_fpn_1x_coco.py": SMALL,
    "efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py": SMALL,
    "empirical_attention/faster-rcnn_r50-attn0010_fpn_1x_coco.py": SMALL,
    "fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py": SMALL,
    "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py": SMALL,
    "foveabox/fovea_r50_fpn_4xb4-1x_coco.py": SMALL,
    "fpg/mask-rcnn_r50_fpg_crop640-50e_coco.py": SMALL,
    "free_anchor/freeanchor_r50_fpn_1x_coco.py": SMALL,
    "fsaf/fsaf_r50_fpn_1x_coco.py": SMALL,
    "gcnet/mask-rcnn_r50-syncbn_fpn_1x_coco.py": SMALL,
    "gfl/gfl_r50_fpn_1x_coco.py": SMALL,
    "ghm/retinanet_r50_fpn_ghm-1x_coco.py": SMALL,
    "gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py": SMALL,
    "gn+ws/faster-rcnn_r50_fpn_gn-ws-all_1x_coco.py": SMALL,
    "grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco.py": SMALL,
    "groie/mask-rcnn_r50_fpn_groie_1x_coco.py": SMALL,
    "guided_anchoring/ga-rpn_r50_fpn_1x_coco.py": SMALL,
    "hrnet/mask-rcnn_hrnetv2p-w18-1x_coco.py": SMALL,
    "htc/htc_r50_fpn_1x_coco.py": SMALL,
    "instaboost/mask-rcnn_r50_fpn_instaboost-4x_coco.py": SMALL,
    "lad/lad_r101-paa-r50_fpn_2xb8_coco_1x.py": SMALL,
    "legacy_1.x/mask-rcnn_r50_fpn_1x_coco_v1.py": SMALL,
    "libra_rcnn/libra-fast-rcnn_r50_fpn_1x_coco.py": SMALL,
    "maskformer/maskformer_r50_ms-16xb1-75e_coco.py": SMALL,
    "ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py": SMALL,
    "nas_fcos/nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco.py": SMALL,
    "nas_fpn/retinanet_r50_fpn_crop640-50e_coco.py": SMALL,
    "paa/paa_r50_fpn_1x_coco.py": SMALL,
    "pafpn/faster-rcnn_r50_pafpn_1x_coco.py": SMALL,
    "panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py": SMALL,
    "pisa/mask-rcnn_r50_fpn_pisa_1x_coco.py": SMALL,
    "pvt/retinanet_pvtv2-b0_fpn_1x_coco.py": SMALL,
    "regnet/mask-rcnn_regnetx-4GF_fpn_1x_coco.py": SMALL,
    "reppoints/reppoints-moment_r50_fpn_1x_coco.py": SMALL,
    "res2net/htc_res2net-101_fpn_20e_coco.py": SMALL,
    "resnest/mask-rcnn_s50_fpn_syncbn-backbone+head_ms-1x_coco.py": SMALL,
    "resnet_strikes_back/mask-rcnn_r50-rsb-pre_fpn_1x_coco.py": SMALL,
    "rpn/rpn_r50_fpn_1x_coco.py": SMALL,
    "sabl/sabl-retinanet_r50_fpn_1x_coco.py": SMALL,
    "scnet/scnet_r50_fpn_1x_coco.py": SMALL,
    "scratch/mask-rcnn_r50-scratch_fpn_gn-all_6x_coco.py": SMALL,
    "seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1.py": SMALL,
    "selfsup_pretrain/mask-rcnn_r50-swav-pre_fpn_1x_coco.py": SMALL,
    "simple_copy_paste/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_32xb2-ssj-90k_coco.py": SMALL,
    "solo/solo_r18_fpn_8xb8-lsj-200e_coco.py": SMALL,
    "sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py": SMALL,
    "strong_baselines/mask-rcnn_r50_fpn_rpn-2conv_4conv1fc_syncbn-all_lsj-50e_coco.py": SMALL,
    "swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py": SMALL,
    "tood/tood_r50_fpn_1x_coco.py": SMALL,
    "tridentnet/tridentnet_r50-caffe_1x_coco.py": SMALL,
    "vfnet/vfnet_r50_fpn_1x_coco.py": SMALL,
    "yolact/yolact_r50_1xb8-55e_coco.py": SQUARE,
    "yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py": SMALL,
    "yolof/yolof_r50-c5_8xb8-1x_coco.py": SMALL,
}
# Left out: folders of trackers, of data sets alone, of text or semi-supervised input; boxinst (needs scikit-image),
# convnext and timm_example (mmpretrain), misc (detectron2), ld (its teacher's config is a path in mmdet's repository),
# queryinst (untrained, its boxes soon are no numbers).


def step_and_predict(path, sizes, packaged, train_step):
    """One training step, then the prediction for the first picture; and what the config's pipelines load."""
    model, config = packaged("mmdet", path)
    wanted = asked_of_data(config.train_dataloader)
    model.data_preprocessor.batch_augments = None  # they scale and pad to the sizes of real pictures
    train_step(model, detection_batch(sizes, wanted))

    for part in model.modules():
        keep_a_few_unsure(getattr(part, "test_cfg", None) or {})
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(detection_batch(sizes[:1], wanted), training=False), mode="predict")
    assert len(results) == 1
    return results[0], wanted


@pytest.mark.parametrize(("path", "sizes"), CONFIGS.items(), ids=CONFIGS)
def test_packaged_config(path, sizes, packaged, train_step):
    result, wanted = step_and_predict(path, sizes, packaged, train_step)
    found = result.pred_instances
    assert len(found) > 0
    assert found.bboxes.shape == (len(found), 4) and torch.isfinite(found.bboxes).all()
    assert found.scores.shape == (len(found),) and ((found.scores >= 0) & (found.scores <= 1)).all()
    assert found.labels.dtype == torch.int64 and ((found.labels >= 0) & (found.labels < 80)).all()
    assert ("masks" in found) == ("with_mask" in wanted)
    if "masks" in found:
        assert found.masks.shape == (len(found), *sizes[0]) and found.masks.dtype == torch.bool


@pytest.mark.slow
@pytest.mark.parametrize(("path", "sizes"), WIDER.items(), ids=WIDER)
def test_other_families(path, sizes, packaged, train_step):
    result, _ = step_and_predict(path, sizes, packaged, train_step)
    if "pred_panoptic_seg" in result:
        assert result.pred_panoptic_seg.sem_seg.shape == (1, *sizes[0])
    else:
        found = result.pred_instances
        assert found.bboxes.shape == (len(found), 4) and torch.isfinite(found.bboxes).all()
        assert found.scores.shape == (len(found),) and torch.isfinite(found.scores).all()
