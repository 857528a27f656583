"""One body, every token mixer of the zoo in turn: MetaFormer's experiment on the digits. Run: bestiary ablate --fast"""

_base_ = [
    "../quickstart/classifier_poolformer_digits.py",
]
work_dir = "work_dirs/ablations/token_mixers_digits"

picture_size = 48
model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.MetaFormer",
        arch=dict(depths=(2, 2, 2, 1), dims=(32, 64, 128, 192)),
        token_mixers=("identity",) * 4,  # each mixer below stands here in its turn
        mlp="MLP",
        layer_scale_init=0.1,
        res_scale_init=(None,) * 4,
        img_size=picture_size,  # for mixers that must know the number of tokens
        out_indices=(3,),
    ),
)

# A mixer for all stages, or a list of one a stage. Maps have 12, 6, 3 and 2 tokens a side.
token_mixers = dict(
    identity="identity",
    pooling="pooling",
    random_mixing="random_mixing",
    depthwise_mixing="depthwise_mixing",
    sep_conv="sep_conv",
    self_attention="self_attention",
    lepe_attention="lepe_attention",
    relative_attention=dict(type="relative_attention", table_size=12),
    window_attention=dict(type="window_attention", window_size=4),
    block_and_grid_attention=["block_attention", "grid_attention", "block_attention", "grid_attention"],
    channel_attention="channel_attention",
    single_head_attention="single_head_attention",
    focal_modulation="focal_modulation",
    neighborhood=dict(type="neighborhood", kernel_size=3),
    bi_level_routing=dict(type="bi_level_routing", n_win=3, topk=2),
    ss2d="ss2d",
    multi_head_scan="multi_head_scan",
)
# What `--fast` changes: a block a stage, three epochs of small batches. Pictures stay as they are, since to shear and
# turn them takes longer than to learn from them, and are read in the training process: side by side, trainings fill
# the cores.
fast = dict(
    model=dict(backbone=dict(arch=dict(depths=(1, 1, 1, 1), dims=(32, 64, 96, 128))), head=dict(in_channels=128)),
    train_dataloader=dict(
        batch_size=16, num_workers=0, persistent_workers=False, dataset=dict(pipeline=_base_.test_pipeline)
    ),
    val_dataloader=dict(num_workers=0, persistent_workers=False),
    train_cfg=dict(max_epochs=3, val_interval=3),
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=40),
        dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=3, eta_min=0, convert_to_iter_based=True),
    ],
)
