"""What runs of mmseg's segmentors have in common: they count iterations, not epochs."""

_base_ = "runtime.py"
default_scope = "mmseg"
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(by_epoch=False, interval=16000))
log_processor = dict(by_epoch=False)
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer")
tta_model = dict(type="SegTTAModel")
