"""MHS-VM-T (after arXiv:2406.05992) on ImageNet-1k from scratch, 300 epochs.

Nobody has published this backbone's scores; VMamba's of its size has 82.6. The recipe is NAT's. 30.4 M parameters.
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e_warmup20.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/mhs_vm/mhsvm-tiny_in1k"

model = dict(
    backbone=dict(type="MHSVM", arch="tiny", drop_path_rate=0.2, out_indices=(3,), out_norm=False),
    head=dict(type="LinearHead", in_channels=1024, num_classes=1000, norm="LayerNorm", norm_first=True),
)
optim_wrapper = dict(
    # What a scan learns of its decay does not decay (Mamba, arXiv:2312.00752).
    paramwise_cfg=dict(custom_keys={"scan.A_log": dict(decay_mult=0.0), "scan.D": dict(decay_mult=0.0)}),
    clip_grad=dict(max_norm=5.0),
)
