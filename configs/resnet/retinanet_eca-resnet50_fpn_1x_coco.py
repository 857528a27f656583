"""RetinaNet with ECA-ResNet-50 (arXiv:1910.03151) on COCO, 12 epochs.

Published: box AP 37.3; 37.74 M parameters, 239.43 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/resnet/retinanet_eca-resnet50"

# Kernel sizes of the authors' detector, which are not their classifier's: its ECA weights of others are not taken.
model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.ResNet",
        arch="eca_resnet50",
        eca_kernels=(3, 3, 7, 7),
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/eca_resnet50_k3557.pth.tar", strict=False),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=0.01))
auto_scale_lr = dict(base_batch_size=8)
train_dataloader = dict(batch_size=1)
