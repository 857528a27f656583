"""MHS-VM's U-Net (arXiv:2406.05992) on ISIC 2017, 300 epochs.

Published: IoU 82.02 and Dice 90.12 of the lesion, by weights trained on ISIC 2018 (the authors' README). No score of
training on ISIC 2017 is at hand. By the authors' code it has 17.26 M parameters.
"""

_base_ = [
    "../_base_/models/mhs_vm_unet.py",
    "../_base_/datasets/isic2017.py",
    "../_base_/schedules/medical_300e.py",
]
work_dir = "work_dirs/mhs_vm/unet_mhsvm-small_isic2017"

custom_imports = dict(imports=["bestiary", "bestiary.heads.mhs_vm_head"])
scan = dict(threshold=0.0)
model = dict(backbone=scan, decode_head=dict(scan=scan))
