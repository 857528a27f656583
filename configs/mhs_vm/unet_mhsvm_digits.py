"""MHS-VM's U-Net on the bundled digits. Run: bestiary train mhs_vm/mhsvm_digits, then bestiary train THIS_FILE

A small one of the paper's medical segmentor: the encoder's maps come in again on the way back to the picture's size.
The encoder starts from the classifier beside this file. From scratch the network soon finds where digits are, and not
within these minutes which.
"""

_base_ = ["../quickstart/upernet_poolformer_digits.py", "../_base_/scan_paramwise.py"]
custom_imports = dict(imports=["bestiary", "bestiary.heads.mhs_vm_head"])
work_dir = "work_dirs/mhs_vm/unet_digits"

scan = dict(d_state=1)
dims = (48, 64, 128, 192)  # the last layer has a quarter of the first's channels, for eleven classes
model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.MHSVMEncoder",
        arch=dict(depths=(1, 2, 4, 2), dims=dims),
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/mhs_vm/classifier_digits/epoch_5.pth"),
        **scan,
    ),
    decode_head=dict(
        _delete_=True,
        type="bestiary.MHSVMHead",
        in_channels=[*dims, dims[-1]],
        depths=(1, 1, 1, 1),
        scan=scan,
        num_classes=11,
        align_corners=False,
        loss_decode=_base_.losses,
    ),
    auxiliary_head=None,
)

optim_wrapper = dict(paramwise_cfg=_base_.scan_paramwise)
train_dataloader = dict(batch_size=8)  # more steps in the same time
max_iters = 600
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=30),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=0, end=max_iters, eta_min=0),
]
