"""What every run of ours has in common; each task's configs set `default_scope` themselves."""

custom_imports = dict(imports=["bestiary"])
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=20),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=1),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
# cuDNN's search pays for itself where sizes do not change. Forked workers start fast and inherit the imports.
env_cfg = dict(
    cudnn_benchmark=False, mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0), dist_cfg=dict(backend="nccl")
)
vis_backends = [dict(type="LocalVisBackend")]
log_level = "INFO"
load_from = None
resume = False
randomness = dict(seed=0)
bad_samples = dict(allowed=0)  # unreadable samples that a training may replace by others, and lists
report = True  # report.html in the work directory at the end of a training
