"""ELA-T (arXiv:2403.01123) in ResNet-34 on ImageNet-1k from scratch, 100 epochs.

No published score is known to us, nor the paper's recipe: ECA's stands here. 21.82 M parameters.
"""

_base_ = "eca-resnet34_8xb32_in1k.py"
work_dir = "work_dirs/resnet/ela-t-resnet34_in1k"

model = dict(backbone=dict(arch="ela_t_resnet34"))
