"""ELA-B (arXiv:2403.01123) in ResNet-34 on ImageNet-1k from scratch, 100 epochs.

No published score is known to us, nor the paper's recipe: ECA's stands here. 21.83 M parameters.
"""

_base_ = "eca-resnet34_8xb32_in1k.py"
work_dir = "work_dirs/resnet/ela-b-resnet34_in1k"

model = dict(backbone=dict(arch="ela_b_resnet34"))
