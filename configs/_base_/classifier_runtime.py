"""What runs of classifiers have in common."""

_base_ = "runtime.py"
default_scope = "bestiary"
default_hooks = dict(logger=dict(interval=100))
