"""300 epochs of AdamW on one GPU, the rate going down and up again in waves (VM-UNet's, arXiv:2402.02491)."""

_base_ = "../segmentor_runtime.py"

max_epochs = 300
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_begin=100, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01))
param_scheduler = [
    dict(type="CosineAnnealingLR", T_max=50, eta_min=1e-5, by_epoch=True, begin=0, end=max_epochs),
]
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=10, save_best="mIoU"))
log_processor = dict(by_epoch=True)
auto_scale_lr = dict(enable=False, base_batch_size=32)
randomness = dict(seed=42)
