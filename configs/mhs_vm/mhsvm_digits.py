"""A small MHS-VM on single handwritten digits: what the U-Net here starts from. Run: bestiary train THIS_FILE"""

_base_ = ["../quickstart/classifier_poolformer_digits.py", "../_base_/scan_paramwise.py"]
work_dir = "work_dirs/mhs_vm/classifier_digits"

dims = (48, 64, 128, 192)
model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.MHSVM",
        arch=dict(depths=(1, 2, 4, 2), dims=dims),
        d_state=1,
        out_norm=False,  # as the U-Net's encoder
        out_indices=(3,),
    ),
    head=dict(in_channels=dims[-1], norm="LayerNorm", norm_first=True),
)

optim_wrapper = dict(paramwise_cfg=_base_.scan_paramwise)
max_epochs = 5
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=70),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, eta_min=0, convert_to_iter_based=True),
]
