"""ELA-L (arXiv:2403.01123) in ResNet-18 on ImageNet-1k from scratch, 100 epochs.

No published score is known to us, nor the paper's recipe: ECA's stands here. 11.80 M parameters.
"""

_base_ = "eca-resnet18_8xb32_in1k.py"
work_dir = "work_dirs/resnet/ela-l-resnet18_in1k"

model = dict(backbone=dict(arch="ela_l_resnet18"))
