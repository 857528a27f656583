"""What runs on a person's own data have in common: PoolFormer-S12 from ImageNet, AdamW, one GPU or a CPU."""

_base_ = "runtime.py"
classes = "auto"
weights = dict(type="Pretrained", checkpoint="timm://poolformer_s12.sail_in1k")
backbone = dict(type="bestiary.PoolFormer", arch="s12", drop_path_rate=0.1, init_cfg=weights)
max_epochs = 24
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=2)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, eta_min=1e-6, convert_to_iter_based=True),
]
LOADER = dict(num_workers=2, persistent_workers=True)
