"""ResNet's schedule (arXiv:1512.03385) over 100 epochs: SGD, a tenth of the rate every 30; for a batch of 256."""

max_epochs = 100
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=5)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = [dict(type="MultiStepLR", by_epoch=True, begin=0, end=max_epochs, milestones=[30, 60, 90], gamma=0.1)]
auto_scale_lr = dict(enable=False, base_batch_size=256)
