"""MHS-VM's U-Net on the bundled digits, from scratch. Run: bestiary train THIS_FILE

A small one of the paper's medical segmentor: the encoder's maps come in again on the way back to the picture's size.
"""

_base_ = ["../quickstart/upernet_poolformer_digits.py"]
custom_imports = dict(imports=["bestiary", "bestiary.heads.mhs_vm_head"])
work_dir = "work_dirs/mhs_vm/unet_digits"

scan = dict(d_state=1)
dims = (24, 48, 96, 192)
model = dict(
    backbone=dict(_delete_=True, type="bestiary.MHSVMEncoder", arch=dict(depths=(1, 1, 2, 1), dims=dims), **scan),
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
