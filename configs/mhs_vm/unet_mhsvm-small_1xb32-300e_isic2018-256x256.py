"""MHS-VM's U-Net (arXiv:2406.05992) on ISIC 2018, 300 epochs.

Published: IoU 80.85 and Dice 89.41 of the lesion (the authors' README). By their code it has 17.26 M parameters.
"""

_base_ = [
    "../_base_/models/mhs_vm_unet.py",
    "../_base_/datasets/isic2018.py",
    "../_base_/schedules/medical_300e.py",
]
work_dir = "work_dirs/mhs_vm/unet_mhsvm-small_isic2018"

custom_imports = dict(imports=["bestiary", "bestiary.heads.mhs_vm_head"])
scan = dict(threshold=0.5)
model = dict(backbone=scan, decode_head=dict(scan=scan))
