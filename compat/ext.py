"""`mmcv._ext`, the module of mmcv's compiled operators, for mmcv-lite, which has none.

mmcv 2.1's C++ sources no longer compile against current PyTorch. Its Python wrappers (`mmcv/ops/*.py`) ask the module
`mmcv._ext` for 112 functions. The finder here serves such a module when nothing else does: the operators that mmdet and
mmseg use, from torchvision and plain PyTorch (`compat/ops/`), and for every other name a function that says, when it is
called, that only compiled mmcv has it.
"""

import importlib
import sys
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from ..errors import InputError

NAME = "mmcv._ext"

PROVIDED: dict[str, tuple[str, ...]] = {  # file of compat/ops: the functions of mmcv._ext that it holds
    "boxes": ("nms", "softnms", "nms_match", "bbox_overlaps"),
    "roi": ("roi_align_forward", "roi_align_backward", "roi_pool_forward", "roi_pool_backward"),
    "deform_roi_pool": ("deform_roi_pool_forward", "deform_roi_pool_backward"),
    "deform_conv": (
        "deform_conv_forward",
        "deform_conv_backward_input",
        "deform_conv_backward_parameters",
        "modulated_deform_conv_forward",
        "modulated_deform_conv_backward",
    ),
    "ms_deform_attn": ("ms_deform_attn_forward", "ms_deform_attn_backward"),
    "focal_loss": (
        "sigmoid_focal_loss_forward",
        "sigmoid_focal_loss_backward",
        "softmax_focal_loss_forward",
        "softmax_focal_loss_backward",
    ),
    "carafe": ("carafe_forward", "carafe_backward", "carafe_naive_forward", "carafe_naive_backward"),
    "masked_conv": ("masked_im2col_forward", "masked_col2im_forward"),
    "psamask": ("psamask_forward", "psamask_backward"),
    "sync_bn": (
        "sync_bn_forward_mean",
        "sync_bn_forward_var",
        "sync_bn_forward_output",
        "sync_bn_backward_param",
        "sync_bn_backward_data",
    ),
}

# What the wrappers of mmcv 2.1 ask for besides. They check at import that each name is there.
MISSING = frozenset(
    """
    active_rotated_filter_backward active_rotated_filter_forward assign_score_withk_backward assign_score_withk_forward
    ball_query_forward bezier_align_backward bezier_align_forward bias_act border_align_backward border_align_forward
    box_iou_quadri box_iou_rotated chamfer_distance_backward chamfer_distance_forward contour_expand convex_giou
    convex_iou correlation_backward correlation_forward diff_iou_rotated_sort_vertices_forward
    dynamic_point_to_voxel_backward dynamic_point_to_voxel_forward dynamic_voxelize_forward filtered_lrelu
    filtered_lrelu_act_ furthest_point_sampling_forward furthest_point_sampling_with_dist_forward
    fused_bias_leakyrelu fused_indice_conv_forward gather_points_backward gather_points_forward
    get_indice_pairs_2d_backward get_indice_pairs_2d_forward get_indice_pairs_3d_backward get_indice_pairs_3d_forward
    get_indice_pairs_4d_forward group_points_backward group_points_forward hard_voxelize_forward indice_conv_backward
    indice_conv_forward indice_maxpool_backward indice_maxpool_forward iou3d_boxes_overlap_bev_forward
    iou3d_nms3d_forward iou3d_nms3d_normal_forward knn_forward min_area_polygons nms_quadri nms_rotated pixel_group
    points_in_boxes_all_forward points_in_boxes_cpu_forward points_in_boxes_part_forward points_in_polygons_forward
    prroi_pool_backward prroi_pool_coor_backward prroi_pool_forward riroi_align_rotated_backward
    riroi_align_rotated_forward roi_align_rotated_backward roi_align_rotated_forward roiaware_pool3d_backward
    roiaware_pool3d_forward roipoint_pool3d_forward rotated_feature_align_backward rotated_feature_align_forward
    stack_ball_query_forward stack_group_points_backward stack_group_points_forward three_interpolate_backward
    three_interpolate_forward three_nn_forward tin_shift_backward tin_shift_forward upfirdn2d
    """.split()
)


def _missing(name: str) -> Callable:
    def operator(*args, **kwargs):
        raise InputError(
            f"mmcv operator '{name}': mmcv-lite has no compiled operators, and bestiary does not provide this one; "
            "compiled mmcv has it: choose a model that does not use it, or install mmcv (in place of mmcv-lite) "
            "compiled for your PyTorch, which bestiary then uses"
        )

    operator.__name__ = operator.__qualname__ = name
    return operator


def _getattr(name: str) -> Callable:
    if name not in MISSING:
        raise AttributeError(f"module {NAME!r} (provided by bestiary) has no attribute {name!r}")
    return _missing(name)


def get_compiler_version() -> str:
    """Stands where mmcv reports the compiler of its operators; `collect_env` prints it."""
    return "none: operators by bestiary, from torchvision and PyTorch"


def get_compiling_cuda_version() -> str:
    """Stands where mmcv reports the CUDA version of its operators; `collect_env` prints it."""
    return "none: operators by bestiary, from torchvision and PyTorch"


class _ExtLoader(Loader):
    def exec_module(self, module: ModuleType) -> None:
        from .ops.calling import as_compiled  # here, not above: it imports torch

        for family, names in PROVIDED.items():
            home = importlib.import_module(f".ops.{family}", __package__)
            for name in names:
                setattr(module, name, as_compiled(getattr(home, name)))
        module.get_compiler_version = get_compiler_version
        module.get_compiling_cuda_version = get_compiling_cuda_version
        module.__getattr__ = _getattr
        module.__doc__ = "mmcv's operators, provided by bestiary.compat."


class _ExtFinder(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None) -> ModuleSpec | None:
        # A spec with a loader: mmengine's mmcv_full_available() and mmcv's check_ops_exist() look at both.
        return ModuleSpec(NAME, _ExtLoader(), origin="bestiary.compat") if fullname == NAME else None


_FINDER = _ExtFinder()


def install_ext() -> None:
    """Serve `mmcv._ext` where no other finder has it; imports nothing, and may be called again.

    The finder stands last: it is asked only after Python's own path finder, so a compiled `mmcv._ext` always wins.
    """
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)


def is_provided() -> bool:
    """True once `mmcv._ext` has been imported and is ours, False if it is compiled mmcv's or not imported yet."""
    spec = getattr(sys.modules.get(NAME), "__spec__", None)
    return isinstance(getattr(spec, "loader", None), _ExtLoader)
