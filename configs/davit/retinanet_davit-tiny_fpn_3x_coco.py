"""RetinaNet with DaViT-T (arXiv:2204.03645) on COCO, 36 epochs.

Published: box AP 46.5; 38.5 M parameters, 244 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "retinanet_davit-tiny_fpn_1x_coco.py"
work_dir = "work_dirs/davit/retinanet_davit-tiny_3x"

model = dict(backbone=dict(drop_path_rate=0.2))
max_epochs = 36
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=max_epochs, milestones=[27, 33], gamma=0.1),
]
