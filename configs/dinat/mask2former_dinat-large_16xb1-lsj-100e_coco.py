"""Mask2Former (arXiv:2112.01527) with DiNAT-Large (arXiv:2209.15001) on COCO's instance task.

Published: mask AP 50.8 (the authors' README).
"""

_base_ = "mmdet::mask2former/mask2former_swin-s-p4-w7-224_8xb2-lsj-50e_coco.py"
custom_imports = dict(imports=["bestiary"])
work_dir = "work_dirs/dinat/mask2former_dinat-large_coco"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.DiNAT",
        arch="large",
        dilations="detection",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_large_in22k_224.pth"),
    ),
    panoptic_head=dict(num_queries=200, in_channels=[192, 384, 768, 1536]),
)
# A tenth of the rate for the backbone, and no decay of norms and learned positions.
optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        custom_keys={
            "backbone": dict(lr_mult=0.1),
            "rpb": dict(lr_mult=0.1, decay_mult=0.0),
            "query_embed": dict(decay_mult=0.0),
            "query_feat": dict(decay_mult=0.0),
            "level_embed": dict(decay_mult=0.0),
        },
    )
)
# Large networks' settings: 200 queries, 100 epochs of batches of 16 (mmdet's Swin-L has them for the panoptic task).
train_dataloader = dict(batch_size=1, num_workers=1)
max_iters = 737500
param_scheduler = dict(end=max_iters, milestones=[655556, 710184])
interval = 5000
train_cfg = dict(
    max_iters=max_iters,
    val_interval=interval,
    dynamic_intervals=[(max_iters // interval * interval + 1, max_iters)],
)
