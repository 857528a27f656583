"""Mask R-CNN on a small SHViT and the bundled digits, from scratch. Run: bestiary train THIS_FILE

The neck makes the strides 4 and 8 that the backbone has not got.
"""

_base_ = ["../quickstart/mask_rcnn_poolformer_digits.py"]
work_dir = "work_dirs/shvit/mask-rcnn_digits"

arch = dict(depths=(2, 2, 1), dims=(64, 128, 192), partial_dims=(16, 28, 40))
model = dict(
    backbone=dict(_delete_=True, type="bestiary.SHViT", arch=arch),
    neck=dict(
        _delete_=True, type="bestiary.SHViTNeck", in_channels=[64, 128, 192], out_channels=48, num_finer=2, num_outs=5
    ),
    rpn_head=dict(anchor_generator=dict(strides=[4, 8, 16, 32, 64])),
)
