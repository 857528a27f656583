"""DINO (arXiv:2203.03605) with FocalNet-H (four levels, arXiv:2203.11926) on COCO, 12 epochs.

Published: box AP 64.0 after training on Objects365; 746 M parameters (the authors' README).

Counted here: 713 M parameters; mmdet's DINO is lighter than the authors'.

The authors' detector was trained on Objects365 first; this file starts from ImageNet-22k's classifier.
"""

_base_ = "mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py"
custom_imports = dict(imports=["bestiary"])
work_dir = "work_dirs/focalnet/dino_focalnet-huge-fl4"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.FocalNet",
        arch="huge_fl4",
        drop_path_rate=0.3,
        with_cp=True,
        init_cfg=dict(type="Pretrained", checkpoint="timm://focalnet_huge_fl4.ms_in22k"),
    ),
    neck=dict(in_channels=[352, 704, 1408, 2816]),
)
