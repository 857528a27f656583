"""An image classifier for mmengine's Runner: preprocessor, backbone, neck if any, head."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from timm.data import Mixup
from torch import Tensor, nn

from ..backbones.names import build_backbone, resolve_name
from ..errors import InputError
from ..inputs.class_sample import ClassSample
from ..registry import MODELS

IMAGENET_PREPROCESSOR = dict(  # pictures are RGB, 0..255, until here
    type="ImgDataPreprocessor", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]
)


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """Backbone, neck and head by config, as mmdet's and mmseg's models.

    Args:
        backbone: config of a backbone, or a module.
        head: config of a head, or a module; see `ClassificationHead`.
        neck: config of a neck between them, or None.
        mixup: arguments of timm's `Mixup` (`mixup_alpha`, `cutmix_alpha`, `prob`, `switch_prob`, `label_smoothing`;
            arXiv:1710.09412, arXiv:1905.04899), used in training alone. `num_classes` is the head's.
        data_preprocessor: mmengine's; by default ImageNet's mean and standard deviation of RGB pictures of 0..255.

    `forward(inputs, data_samples, mode)` has mmengine's three modes: `tensor` gives logits (B, num_classes); `loss` a
    dict of losses; `predict` the samples with `pred_score` (num_classes,), probabilities, and `pred_label` (1,), with a
    head of several labels `pred_labels`, too. Targets are the samples' `gt_label`, or `gt_score` (num_classes,) where
    they have one: several labels, or soft ones.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any] | nn.Module,
        head: Mapping[str, Any] | nn.Module,
        neck: Mapping[str, Any] | nn.Module | None = None,
        mixup: Mapping[str, Any] | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(data_preprocessor or dict(IMAGENET_PREPROCESSOR), init_cfg)
        self.backbone, self.head = _build(backbone), _build(head)
        self.neck = None if neck is None else _build(neck)
        if mixup is not None and self.head.multi_label:
            raise ValueError("ImageClassifier: mixup is for one class a picture; leave it out with multi_label=True")
        self.mixup = None if mixup is None else Mixup(**{**mixup, "num_classes": self.head.num_classes})

    def forward(
        self, inputs: Tensor, data_samples: Sequence[ClassSample] | None = None, mode: str = "tensor"
    ) -> Tensor | dict[str, Tensor] | list[ClassSample]:
        if mode == "tensor":
            return self.logits(inputs)
        if mode == "loss":
            return self.loss(inputs, data_samples)
        if mode == "predict":
            return self.predict(inputs, data_samples)
        raise ValueError(f"ImageClassifier: no mode {mode!r}; there are tensor, loss, predict")

    def logits(self, inputs: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, num_classes)."""
        feats = self.backbone(inputs)
        return self.head(feats if self.neck is None else self.neck(feats))

    def loss(self, inputs: Tensor, data_samples: Sequence[ClassSample]) -> dict[str, Tensor]:
        """Losses of a batch; mixup and cutmix, if any, are applied to it first."""
        if "gt_score" in data_samples[0]:
            if self.mixup is not None:
                raise InputError("the samples have soft or several labels (gt_score): set model.mixup=None")
            return self.head.loss(self.logits(inputs), self._several(data_samples).to(inputs.device))
        target = torch.cat([sample.gt_label for sample in data_samples]).to(inputs.device)
        # F.cross_entropy would fail with an index error deep in a kernel, on a GPU without naming the picture.
        wrong = (target < 0) | (target >= self.head.num_classes)
        if wrong.any():
            worst = int(wrong.int().argmax())
            raise InputError(
                f"{data_samples[worst].get('img_path')}: its class is number {int(target[worst])}, but the head has "
                f"{self.head.num_classes} classes (counted from 0): set model.head.num_classes"
            )
        if self.mixup is not None and self.training:
            inputs, target = self._mix(inputs, target)
        return self.head.loss(self.logits(inputs), target)

    def predict(self, inputs: Tensor, data_samples: Sequence[ClassSample] | None = None) -> list[ClassSample]:
        """The samples (new ones if there are none) with `pred_score` and `pred_label`."""
        scores = self.head.probabilities(self.logits(inputs))
        threshold = self.head.threshold if self.head.multi_label else None
        samples = [ClassSample() for _ in scores] if data_samples is None else list(data_samples)
        for sample, score in zip(samples, scores, strict=True):
            sample.set_prediction(score, threshold)
        return samples

    def _several(self, data_samples: Sequence[ClassSample]) -> Tensor:
        """(B, num_classes) targets of pictures with any number of classes, or with soft ones."""
        for sample in data_samples:
            if len(sample.gt_score) != self.head.num_classes:
                raise InputError(
                    f"{sample.get('img_path')}: has {len(sample.gt_score)} targets, a class each, but the head has "
                    f"{self.head.num_classes} classes: set model.head.num_classes"
                )
        return torch.stack([sample.gt_score for sample in data_samples])

    def _mix(self, inputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        # timm mixes a picture with its counterpart from the batch's other end, so it takes even batches; the odd
        # picture of a last batch is left as it is, with its smoothed label.
        even = len(inputs) // 2 * 2
        smooth = self.mixup.label_smoothing
        soft = torch.full((len(target), self.head.num_classes), smooth / self.head.num_classes, device=inputs.device)
        soft.scatter_add_(1, target[:, None], torch.full_like(soft, 1 - smooth)[:, :1])
        if even:
            mixed, soft[:even] = self.mixup(inputs[:even].clone(), target[:even])
            inputs = torch.cat([mixed, inputs[even:]])
        return inputs, soft


def _build(part: Mapping[str, Any] | nn.Module) -> nn.Module:
    return part if isinstance(part, nn.Module) else MODELS.build(part)


def make_classifier(
    name: str,
    num_classes: int = 1000,
    mixup: Mapping[str, Any] | None = None,
    like: str = "paper",
    head: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> ImageClassifier:
    """An image classifier by its backbone's name, with initial values; `build_classifier` loads weights, too.

    Args:
        name: as `list_backbones()` has it.
        num_classes: classes of the head.
        mixup: see `ImageClassifier`.
        like: 'paper', or 'timm' for timm's arithmetic in the few places where the two differ.
        head: arguments of the head in place of the family's: `dict(dropout=0.4)`.
        **kwargs: arguments of the backbone.
    """
    family, arch = resolve_name(name)
    # The norm before the head is the head's, where timm and the releases keep it.
    dense_only = {"out_norm": False} if "out_norm" in family.DEFAULTS else {}
    backbone = build_backbone(name, like, **{"out_indices": (-1,), **dense_only, **kwargs})
    head = {**family.head(arch), **(family.like_timm(arch)[1] if like == "timm" else {}), **(head or {})}
    kind = MODELS.get(head.pop("type"))  # not MODELS.build, which searches a detector's scope first
    return ImageClassifier(backbone, kind(backbone.feature_info.channels()[-1], num_classes, **head), mixup=mixup)
