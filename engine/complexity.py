"""Parameters and multiply-adds of a whole model, counted without computing anything."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import InputError
from ..kernels import use_backend

# What mmdet's counter has fed to the heads of two-stage detectors since its first version, so that figures compare.
PROPOSALS, MASKS = 1000, 100


def build_meta(cfg: Config) -> nn.Module:
    """The config's model without memory for its weights, in evaluation mode; no weights are loaded."""
    init_default_scope(cfg.get("default_scope", "mmengine"))
    model = without_weights(cfg.model)
    with torch.device("meta"):
        return MODELS.build(model).eval()


def without_weights(part: Any) -> Any:
    """A copy of a config without the entries that name weights to load."""
    if isinstance(part, dict):
        weights = {"pretrained"} | ({"init_cfg"} if _loads(part.get("init_cfg")) else set())
        return type(part)({key: without_weights(value) for key, value in part.items() if key not in weights})
    if isinstance(part, list | tuple):
        return type(part)(without_weights(value) for value in part)
    return part


def _loads(init: Any) -> bool:
    return isinstance(init, dict) and init.get("type") == "Pretrained"


def count_parameters(model: nn.Module) -> int:
    """Numbers that training can change."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_multiply_adds(model: nn.Module, height: int, width: int) -> int:
    """Multiply-adds of convolutions, linear layers and attention for one picture; a paper's "FLOPs" are these.

    Args:
        model: a classifier, detector or segmentor on the meta device, as `build_meta` gives it.
        height, width: of the picture, in pixels. Detection papers count at 800 x 1280, segmentation ones at 512 x 2048.

    Two-stage detectors are counted as mmdet's own tool does, with 1,000 proposals, and 100 for the masks. Norms,
    activations and pooling are not counted; mmdet's old tool had them, about a hundredth of the whole.

    Raises:
        InputError: a kind of model whose forward pass depends on what is in the picture.
    """
    return _count(lambda picture: _run(model, picture), height, width)


def count_forward(model: nn.Module, height: int, width: int) -> int:
    """As `count_multiply_adds`, of any network on the meta device that takes a picture: a backbone, one of timm's."""
    return _count(model, height, width)


def _count(run: Callable[[Tensor], Any], height: int, width: int) -> int:
    picture = torch.empty(1, 3, height, width, device="meta")
    with contextlib.ExitStack() as stack:
        # Their definitions are matrix products, so that they are counted; the scan's is a loop over its steps, and its
        # operator counts itself.
        for operator in ("neighborhood_attention", "bi_level_routing_attention"):
            stack.enter_context(use_backend("reference", operator))
        stack.enter_context(torch.no_grad())
        counter = stack.enter_context(FlopCounterMode(display=False))
        run(picture)
    return counter.get_total_flops() // 2


def _run(model: nn.Module, picture: Tensor) -> None:
    if hasattr(model, "logits"):
        model.logits(picture)
    elif hasattr(model, "decode_head") and hasattr(model.decode_head, "cls_seg"):
        head = model.decode_head[-1] if isinstance(model.decode_head, nn.ModuleList) else model.decode_head
        head(model.extract_feat(picture))  # the auxiliary head is not asked in prediction
    elif hasattr(model, "roi_head"):
        _run_two_stage(model, picture)
    elif hasattr(model, "bbox_head") and not hasattr(model, "encoder"):
        model.bbox_head(model.extract_feat(picture))
    else:
        raise InputError(
            f"{type(model).__name__}: its multiply-adds hang on queries and boxes, and are not counted here: ask for "
            "its parameters alone"
        )


def _run_two_stage(model: nn.Module, picture: Tensor) -> None:
    maps = model.extract_feat(picture)
    heads = model.roi_head
    learned = getattr(model.rpn_head, "num_proposals", None)  # Sparse R-CNN's proposals are parameters
    if learned is None:
        model.rpn_head(maps)
    for extractor, head in zip(_each(heads.bbox_roi_extractor), _each(heads.bbox_head), strict=True):
        if learned is None:
            head(_regions(extractor, PROPOSALS))
        else:
            features = torch.empty(1, learned, heads.proposal_feature_channel, device="meta")
            head(_regions(extractor, learned), features)
    if heads.with_mask:
        for extractor, head in zip(_each(heads.mask_roi_extractor), _each(heads.mask_head), strict=True):
            head(_regions(extractor, MASKS))


def _each(part: nn.Module) -> list[nn.Module]:
    return list(part) if isinstance(part, nn.ModuleList) else [part]


def _regions(extractor: nn.Module, count: int) -> Tensor:
    """Features of `count` regions, as an extractor gives them."""
    return torch.empty(count, extractor.out_channels, *extractor.roi_layers[0].output_size, device="meta")
