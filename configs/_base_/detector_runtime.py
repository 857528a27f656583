"""What runs of mmdet's detectors have in common."""

_base_ = "runtime.py"
custom_imports = dict(imports=["bestiary", "bestiary.inputs.detection_transforms"])
default_scope = "mmdet"
default_hooks = dict(logger=dict(interval=50))
visualizer = dict(type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer")
