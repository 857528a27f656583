"""UPerNet with MHS-VM-S (after arXiv:2406.05992) on ADE20K, 160,000 iterations.

Nobody has published this segmentor's score; VMamba's of its size has mIoU 50.6. The recipe is Swin's.
"""

_base_ = "upernet_mhsvm-tiny_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/mhs_vm/upernet_mhsvm-small"

model = dict(
    backbone=dict(
        arch="small", drop_path_rate=0.3, init_cfg=dict(checkpoint="work_dirs/mhs_vm/mhsvm-small_in1k/epoch_300.pth")
    ),
)
