"""ELA-S (arXiv:2403.01123) in MobileNetV2 on ImageNet-1k from scratch, 400 epochs.

No published score is known to us, nor the paper's recipe: ECA's stands here. 3.80 M parameters.
"""

_base_ = "eca-mobilenetv2_4xb24_in1k.py"
work_dir = "work_dirs/mobilenet_v2/ela-s-mobilenetv2_in1k"

model = dict(backbone=dict(arch="ela_s_mobilenetv2"))
