"""160,000 iterations of AdamW, a linear way down after a warm-up of 1,500; the rate is for a batch of 16."""

max_iters = 160000
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=16000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, by_epoch=False, begin=1500, end=max_iters, eta_min=0.0),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)
