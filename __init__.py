"""Bestiary: a zoo of vision backbones, and the framework that trains them."""

# Nothing heavy is imported here: `import bestiary.kernels` runs this file first and needs only torch. Absolute names on
# purpose: pytest also imports this file, under the checkout's own name, and must not load the rooms twice.
import importlib

from bestiary.compat import install

__version__ = "0.1.0"

install()  # makes mmengine, mmcv, mmdet and mmseg run on current PyTorch, each at the moment that it is imported

_HOME = {  # public name: the room that it comes from, imported at first use
    "MODELS": "bestiary.registry",
    "MIXERS": "bestiary.registry",
    "DATASETS": "bestiary.registry",
    "TRANSFORMS": "bestiary.registry",
    "METRICS": "bestiary.registry",
    "HOOKS": "bestiary.registry",
    "build_backbone": "bestiary.backbones",
    "list_backbones": "bestiary.backbones",
    "build_classifier": "bestiary.checkpoints",
    "convert_state_dict": "bestiary.checkpoints",
    "load": "bestiary.engine.api",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'bestiary' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)
