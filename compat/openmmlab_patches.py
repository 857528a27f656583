"""mmcv 2.1, mmdet 3.3 and mmseg 1.2 on current PyTorch and NumPy."""

import functools
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from ..errors import InputError
from .imports import after_import, replace, target


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


@after_import("mmdet.models.data_preprocessors.data_preprocessor")
def box_inst_colours(module: ModuleType) -> None:
    """BoxInst needs scikit-image, which mmdet does not bring, for one conversion of colours; that one is here."""
    if target(module, "skimage") is None:
        module.skimage = SimpleNamespace(color=SimpleNamespace(rgb2lab=rgb_to_lab))


def rgb_to_lab(image: Any) -> Any:
    """CIE 1976 L*a*b* of sRGB under D65, the 2 degree observer; (..., 3) uint8, or 0..1 -> (..., 3), L in 0..100."""
    import numpy as np  # not with the package: importing that is light

    rgb = image / 255 if image.dtype == np.uint8 else image.astype(np.float64)
    rgb = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    xyz = rgb @ np.transpose(to_xyz) / [0.95047, 1.0, 1.08883]
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


@after_import("mmdet.models.detectors.kd_one_stage")
def teacher_from_the_wheel(module: ModuleType) -> None:
    """LD's configs name their teacher by a path in mmdet's repository; the same file is among the wheel's configs."""
    detector = target(module, "KnowledgeDistillationSingleStageDetector")
    init = detector.__init__

    @functools.wraps(init)
    def __init__(self, backbone, neck, bbox_head, teacher_config, *args, **kwargs):
        if isinstance(teacher_config, str | Path) and not Path(teacher_config).exists():
            import mmdet

            packaged = Path(mmdet.__file__).parent / ".mim" / teacher_config
            teacher_config = str(packaged) if packaged.is_file() else teacher_config
        init(self, backbone, neck, bbox_head, teacher_config, *args, **kwargs)

    detector.__init__ = __init__


@after_import("mmdet.models.roi_heads.mask_heads.fcn_mask_head")
def paste_masks_of_boxes_outside(module: ModuleType) -> None:
    """On CPUs masks are pasted into the part of the picture that their boxes span; where all lie outside, it has none.

    Its range then runs backwards, an error. Boxes that a head refines without clipping get there, QueryInst's do.
    """
    paste = target(module, "_do_paste_mask")

    @functools.wraps(paste)
    def _do_paste_mask(masks, boxes, img_h, img_w, skip_empty=True):
        if skip_empty and len(boxes):
            lowest, highest = boxes.min(dim=0).values, boxes.max(dim=0).values
            # As the range is rounded there: nothing of it is left.
            skip_empty = bool(
                (lowest[0].floor() - 1).clamp(min=0) < (highest[2].ceil() + 1).clamp(max=img_w)
                and (lowest[1].floor() - 1).clamp(min=0) < (highest[3].ceil() + 1).clamp(max=img_h)
            )
        return paste(masks, boxes, img_h, img_w, skip_empty)

    replace(module, "_do_paste_mask", _do_paste_mask)


@after_import("mmdet.models.utils.gaussian_target")
def heatmaps_of_any_layout(module: ModuleType) -> None:
    """As DMNet's: CenterNet's and CornerNet's peaks of heatmaps that have channels last in memory."""
    topk = target(module, "get_topk_from_heatmap")

    @functools.wraps(topk)
    def get_topk_from_heatmap(scores, k=20):
        return topk(scores.contiguous(), k)

    replace(module, "get_topk_from_heatmap", get_topk_from_heatmap)


@after_import("mmdet.models.backbones.trident_resnet")
def trident_conv_has_values(module: ModuleType) -> None:
    """TridentConv's weights are whatever the memory held until a checkpoint is loaded; now as Conv2d's of a ResNet."""
    layer = target(module, "TridentConv")
    init = layer.__init__

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        _normal(self.weight, (2 / (self.out_channels * self.kernel_size[0] * self.kernel_size[1])) ** 0.5)
        if self.bias is not None:
            _normal(self.bias, 0.0)

    layer.__init__ = __init__


def _normal(parameter: Any, deviation: float) -> None:
    parameter.data.normal_(0, deviation) if deviation else parameter.data.zero_()


@after_import("mmseg.models.text_encoder.clip_text_encoder")
def clip_text_has_values(module: ModuleType) -> None:
    """As TridentConv's: places and projection of SAN's text encoder. CLIP's own initial values (arXiv:2103.00020)."""
    encoder = target(module, "CLIPTextEncoder")
    init = encoder.__init__

    @functools.wraps(init)
    def __init__(self, *args, **kwargs):
        init(self, *args, **kwargs)
        _normal(self.positional_embedding, 0.01)
        _normal(self.text_projection, self.text_projection.shape[0] ** -0.5)

    encoder.__init__ = __init__


@after_import("mmseg.models.decode_heads.dm_head")
def dynamic_filters_of_any_layout(module: ModuleType) -> None:
    """DMNet's `view`s ask for maps with channels first in memory; some backbones', ours too, have them last."""
    part = target(module, "DCM")
    forward = part.forward

    @functools.wraps(forward)
    def of_contiguous(self, x):
        return forward(self, x.contiguous())

    part.forward = of_contiguous


@after_import("mmseg.models.decode_heads.san_head")
def san_without_weights(module: ModuleType) -> None:
    """SAN's recognition part, a plain module, asks its parent for `init_weights` where there are none to load."""
    part = target(module, "RecWithAttnbias")
    init_weights = part.init_weights

    @functools.wraps(init_weights)
    def from_state(self, rec_state_dict):
        return None if rec_state_dict is None else init_weights(self, rec_state_dict)  # its layers have values

    part.init_weights = from_state


@after_import("mmseg.datasets.transforms.loading")
def labels_have_their_pictures_size(module: ModuleType) -> None:
    """mmseg resizes picture and label image each by itself, so that labels of another size train, out of place."""
    step = target(module, "LoadAnnotations")
    load = target(step, "_load_seg_map")

    @functools.wraps(load)
    def _load_seg_map(self, results):
        load(self, results)
        labels, picture = results["gt_seg_map"].shape[:2], results.get("ori_shape")
        if picture is not None and labels != tuple(picture[:2]):
            raise InputError(
                f"{results['seg_map_path']}: {labels[1]} x {labels[0]} pixels, its picture has {picture[1]} x "
                f"{picture[0]}: make them one size"
            )

    step._load_seg_map = _load_seg_map


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
