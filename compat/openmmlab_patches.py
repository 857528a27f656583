"""mmcv 2.1, mmdet 3.3 and mmseg 1.2 on current PyTorch and NumPy."""

import functools
import warnings
from types import ModuleType

from .imports import after_import, target


def quiet_warnings() -> None:
    """Silence four kinds of warning that a user of these packages can do nothing about.

    torch says of `torch.cuda.amp.autocast` and `GradScaler` (CSPDarknet, SELayer, SimOTA, mmseg's Hungarian assigner,
    mmengine's AMP) and of `broadcast_buffers` (mmengine's DDP) that they have new names; Python says of some docstrings
    that they are no raw strings; mmseg says of its own builders, which its own heads call, that they are old.
    """
    warnings.filterwarnings("ignore", r"`torch\.cuda\.amp\.", FutureWarning)
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
    warnings.filterwarnings("ignore", r"``build_\w+`` would be deprecated", UserWarning)
    openmmlab_file = r".*[/\\]mm(engine|cv|det|seg)[/\\]"
    for category in (DeprecationWarning, SyntaxWarning):  # the former up to Python 3.11
        warnings.filterwarnings("ignore", "invalid escape sequence", category, openmmlab_file)


@after_import("mmdet.models.dense_heads.ssd_head")
def ssd_head_predicts(module: ModuleType) -> None:
    """SSDHead never sets `loss_cls`, which the shared prediction code asks for a custom number of channels."""
    target(module, "SSDHead").loss_cls = None


@after_import("mmcv.ops.sync_bn")
def mm_sync_bn_alone(module: ModuleType) -> None:
    """mmcv's SyncBatchNorm asks for the size of a process group when it is made, so a model of it needs one to exist.

    Without one it is a group of one process, as a model has to be made before a Runner can put BatchNorm in its place.
    """
    layer, torch_dist = target(module, "SyncBatchNorm"), target(module, "dist")
    init = layer.__init__

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        if torch_dist.is_initialized():
            return init(self, *args, **kwargs)
        init(self, *args, **{**kwargs, "group": torch_dist.GroupMember.NON_GROUP_MEMBER})
        self.group, self.group_size = None, 1

    layer.__init__ = __init__


@after_import("mmcv.ops.pixel_group", "mmdet.evaluation.functional.ytviseval")
def numpy_float(module: ModuleType) -> None:
    """`np.float` went away with NumPy 1.24; these two modules get a `np` that has it, numpy itself does not."""
    numpy = target(module, "np")

    class NumpyWithFloat(ModuleType):
        float = float

        def __getattr__(self, name):
            return getattr(numpy, name)

    module.np = NumpyWithFloat("numpy")
