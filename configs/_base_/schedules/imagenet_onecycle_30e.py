"""SGD and one cycle (arXiv:1708.07120) over 30 epochs: up for 3 tenths, down to nothing; for a batch of 512.

The highest rate is `eta_max` of the schedule; the optimizer's `lr` is not read.
"""

max_epochs = 30
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=1.0, momentum=0.9, weight_decay=5e-5, nesterov=True),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
)
param_scheduler = [
    dict(
        type="OneCycleLR",
        eta_max=1.0,
        pct_start=0.3,
        div_factor=25.0,
        final_div_factor=1e4,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
