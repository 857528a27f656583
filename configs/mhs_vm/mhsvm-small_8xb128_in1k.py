"""MHS-VM-S (after arXiv:2406.05992) on ImageNet-1k from scratch, 300 epochs.

Nobody has published this backbone's scores; VMamba's of its size has 83.6. The recipe is NAT's. 50.7 M parameters.
"""

_base_ = "mhsvm-tiny_8xb128_in1k.py"
work_dir = "work_dirs/mhs_vm/mhsvm-small_in1k"

model = dict(backbone=dict(arch="small", drop_path_rate=0.3))
