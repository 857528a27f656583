"""ECA-MobileNetV2 (arXiv:1910.03151) on ImageNet-1k from scratch, 400 epochs.

Published: top-1 72.56; 3.50 M parameters (the authors' README, whose 3.34 M are of 2^20).
"""

_base_ = "../resnet/eca-resnet50_8xb32_in1k.py"
work_dir = "work_dirs/mobilenet_v2/eca-mobilenetv2_in1k"

model = dict(
    backbone=dict(_delete_=True, type="MobileNetV2", arch="eca_mobilenetv2", out_indices=(3,)),
    head=dict(_delete_=True, type="ConvHead", in_channels=320, num_classes=1000, dropout=0.2),
)
train_dataloader = dict(batch_size=24)
max_epochs = 400
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=0.045, weight_decay=4e-5))
param_scheduler = [dict(type="ExponentialLR", gamma=0.98, by_epoch=True, begin=0, end=max_epochs)]
auto_scale_lr = dict(base_batch_size=96)
