"""Any timm model with `features_only` as a backbone."""

import difflib
from typing import Any

import timm
from mmengine.model import BaseModule
from timm.models import FeatureInfo
from torch import Tensor, nn

from ..registry import MODELS


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """A timm model that gives feature maps: `dict(type='bestiary.TimmBackbone', model_name='resnet18')`.

    Args:
        model_name: as `timm.list_models()` has it; a tag may follow (`resnet18.a1_in1k`).
        pretrained: load timm's weights, which needs the network or timm's cache.
        in_channels: channels of the input picture.
        out_indices: levels of the model's own feature list, ascending (a ResNet has five, strides 2 to 32); negative
            ones count from the end. None takes the last four, or all where there are fewer.
        frozen_stages: -1 trains all; n freezes all that leads to the feature map of level n, stem included.
        norm_eval: keep batch norms in evaluation mode while training.
        with_cp: timm's gradient checkpointing.
        checkpoint_path: a local file with timm's weights.
        init_cfg: must be None; timm initialises its models.
        **kwargs: for `timm.create_model` (drop_path_rate, output_stride, img_size, ...).

    Input: (B, in_channels, H, W). Output: a tuple, one (B, C_i, H_i, W_i) for each of `out_indices`;
    `feature_info.channels()` and `.reduction()` tell C_i and the strides.

    Raises:
        ValueError: no such model, one that gives no feature maps, levels that it has not.
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool = False,
        in_channels: int = 3,
        out_indices: tuple[int, ...] | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        checkpoint_path: str = "",
        init_cfg: None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        if init_cfg is not None:
            raise ValueError("TimmBackbone: timm initialises its models; use pretrained=True or checkpoint_path")
        if not timm.is_model(model_name):
            near = difflib.get_close_matches(model_name, timm.list_models(), n=3)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise ValueError(f"TimmBackbone: timm {timm.__version__} has no model {model_name!r}{hint}")
        self.model_name = model_name
        create = dict(features_only=True, in_chans=in_channels, pretrained=pretrained, checkpoint_path=checkpoint_path)
        try:
            self.model = timm.create_model(
                model_name, **create, **({} if out_indices is None else dict(out_indices=tuple(out_indices))), **kwargs
            )
            if out_indices is None and len(self.model.feature_info.info) > 4:
                levels = len(self.model.feature_info.info)
                # timm prunes what lies behind the last index, so the choice has to be made when the model is built.
                self.model = timm.create_model(
                    model_name, **create, out_indices=tuple(range(levels - 4, levels)), **kwargs
                )
        except (RuntimeError, AssertionError, AttributeError, IndexError) as error:
            raise ValueError(
                f"TimmBackbone: {model_name} gives no feature maps with these arguments: {error}"
            ) from error
        self.out_indices = tuple(self.model.feature_info.out_indices)
        # Transformers with windows keep their maps channels last.
        self._channels_last = "NHWC" in str(getattr(self.model, "output_fmt", ""))
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        if with_cp:
            self.model.set_grad_checkpointing(True)
        levels = len(self.feature_info.info)
        if not -1 <= frozen_stages < levels:
            raise ValueError(
                f"TimmBackbone: frozen_stages {frozen_stages} is not in -1..{levels - 1}, {model_name}'s levels"
            )
        self._freeze()

    @property
    def feature_info(self) -> FeatureInfo:
        """timm's: `.channels()` and `.reduction()` of the returned maps."""
        return self.model.feature_info

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> a tuple of (B, C_i, H_i, W_i)."""
        maps = self.model(x)
        return tuple(x.permute(0, 3, 1, 2) for x in maps) if self._channels_last else tuple(maps)

    def init_weights(self) -> None:
        """Nothing to do: timm has initialised or loaded the weights when it built the model."""
        self._is_init = True

    def train(self, mode: bool = True) -> "TimmBackbone":
        """Training mode, in which frozen levels, and batch norms if `norm_eval`, stay in evaluation mode."""
        super().train(mode)
        if mode:
            self._freeze()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        last = self.feature_info.info[self.frozen_stages]["module"]
        frozen = []
        # Leaves in the order of the network, up to and including the module whose output is the level's map.
        for name, module in self.model.named_modules():
            if name.replace("_", ".") == last.replace("_", ".") or name == last:
                frozen += [module]
                break
            if not any(module.children()):
                frozen += [module]
        else:
            raise ValueError(f"TimmBackbone: {self.model_name} does not show where level {self.frozen_stages} ends")
        for module in frozen:
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad = False
