"""MHS-VM's U-Net (arXiv:2406.05992) on Synapse's abdominal organs, 320 epochs.

Nobody has published the score of this code. The recipe is a config in the authors' repository, after VM-UNet's.
"""

_base_ = [
    "../_base_/models/mhs_vm_unet.py",
    "../_base_/datasets/synapse_224.py",
    "../_base_/schedules/medical_300e.py",
]
work_dir = "work_dirs/mhs_vm/unet_mhsvm-small_synapse"

custom_imports = dict(imports=["bestiary", "bestiary.heads.mhs_vm_head"])
scan = dict(threshold=0.5)
model = dict(
    # The authors divide grey levels by 255 and no more.
    data_preprocessor=dict(mean=[0.0] * 3, std=[255.0] * 3, size=(224, 224)),
    backbone=scan,
    decode_head=dict(
        scan=scan,
        num_classes=9,
        out_channels=9,
        threshold=None,
        loss_decode=[
            dict(type="CrossEntropyLoss", loss_weight=1.0),
            dict(type="bestiary.ClassDiceLoss", loss_weight=1.0),
        ],
    ),
)

max_epochs = 320
train_cfg = dict(max_epochs=max_epochs, val_begin=50, val_interval=50)
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=100, eta_min=1e-5, by_epoch=True, begin=0, end=max_epochs),
]
