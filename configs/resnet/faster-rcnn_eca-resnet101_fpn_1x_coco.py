"""Faster R-CNN with ECA-ResNet-101 (arXiv:1910.03151) on COCO, 12 epochs.

Published: box AP 40.3; 60.52 M parameters, 283.32 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "faster-rcnn_eca-resnet50_fpn_1x_coco.py"
work_dir = "work_dirs/resnet/faster-rcnn_eca-resnet101"

model = dict(
    backbone=dict(
        arch="eca_resnet101",
        eca_kernels=(3, 3, 5, 7),
        init_cfg=dict(checkpoint="checkpoints/eca_resnet101_k3357.pth.tar"),
    )
)
