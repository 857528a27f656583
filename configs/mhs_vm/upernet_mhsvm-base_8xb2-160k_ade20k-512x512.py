"""UPerNet with MHS-VM-B (after arXiv:2406.05992) on ADE20K, 160,000 iterations.

Nobody has published this segmentor's score; VMamba's of its size has mIoU 51.0. The recipe is Swin's.
"""

_base_ = "upernet_mhsvm-tiny_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/mhs_vm/upernet_mhsvm-base"

model = dict(
    backbone=dict(
        arch="base", drop_path_rate=0.5, init_cfg=dict(checkpoint="work_dirs/mhs_vm/mhsvm-base_in1k/epoch_300.pth")
    ),
    decode_head=dict(in_channels=[176, 352, 704, 1408]),
    auxiliary_head=dict(in_channels=704),
)
