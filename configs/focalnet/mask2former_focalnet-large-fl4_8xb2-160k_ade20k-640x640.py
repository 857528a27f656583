"""Mask2Former (arXiv:2112.01527) with FocalNet-L (four levels, arXiv:2203.11926) on ADE20K.

Published: mIoU 57.3, 58.5 of several scales; 218 M parameters (the authors' README).

Counted here: 226 M parameters; the same network as COCO's, of which 226 M are published.
"""

_base_ = "mmseg::mask2former/mask2former_swin-l-in22k-384x384-pre_8xb2-160k_ade20k-640x640.py"
custom_imports = dict(imports=["bestiary"])
work_dir = "work_dirs/focalnet/mask2former_focalnet-large-fl4_ade20k"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.FocalNet",
        arch="large_fl4",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="timm://focalnet_large_fl4.ms_in22k"),
    ),
)
# A tenth of the rate for the backbone, and no decay of norms and learned positions.
optim_wrapper = dict(
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        custom_keys={
            "backbone": dict(lr_mult=0.1),
            "query_embed": dict(decay_mult=0.0),
            "query_feat": dict(decay_mult=0.0),
            "level_embed": dict(decay_mult=0.0),
        },
    )
)
