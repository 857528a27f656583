"""Mask2Former (arXiv:2112.01527) with DiNAT-Large (arXiv:2209.15001) on ADE20K.

Published: mIoU 58.1 (the authors' README).
"""

_base_ = "mmseg::mask2former/mask2former_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py"
custom_imports = dict(imports=["bestiary"])
work_dir = "work_dirs/dinat/mask2former_dinat-large_ade20k"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.DiNAT",
        arch="large",
        dilations="segmentation_640",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_large_in22k_224.pth"),
    ),
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
