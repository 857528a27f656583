"""Mask R-CNN on a small isotropic FocalNet and the bundled digits, from scratch. Run: bestiary train THIS_FILE

The backbone has one map, of stride 16 in the paper and 8 here for small pictures; the neck makes a pyramid of it.
"""

_base_ = ["../quickstart/mask_rcnn_poolformer_digits.py"]
work_dir = "work_dirs/focalnet/mask-rcnn_iso_digits"

arch = dict(depths=(4,), dims=(128,), strides=(8,), focal_levels=3, focal_windows=3)
model = dict(
    backbone=dict(_delete_=True, type="bestiary.FocalNet", arch=arch),
    neck=dict(_delete_=True, type="bestiary.SimpleFeaturePyramid", in_channels=128, out_channels=48, num_outs=4),
    rpn_head=dict(anchor_generator=dict(strides=[2, 4, 8, 16], scales=[12])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[2, 4, 8, 16]),
        mask_roi_extractor=dict(featmap_strides=[2, 4, 8, 16]),
    ),
)
