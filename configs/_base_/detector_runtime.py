"""What runs of mmdet's detectors have in common."""

_base_ = "runtime.py"
default_scope = "mmdet"
default_hooks = dict(logger=dict(interval=50))
visualizer = dict(type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer")
