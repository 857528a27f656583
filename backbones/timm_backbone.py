"""Any timm model with `features_only` as a backbone."""

import difflib
import functools
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from timm.models import FeatureInfo
from timm.models._features import _module_list
from timm.models._manipulate import group_with_matcher
from timm.models.hrnet import HighResolutionNetFeatures
from torch import Tensor, nn

from ..errors import InputError
from ..registry import MODELS
from .base import FreezableModule, undecayed


@MODELS.register_module()
class TimmBackbone(FreezableModule):
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
        checkpoint_path: a local file with timm's weights of the whole model; they have to fit.
        init_cfg: must be None; timm initialises its models.
        **kwargs: for `timm.create_model` (drop_path_rate, output_stride, img_size, ...).

    Input: (B, in_channels, H, W). Output: a tuple, one (B, C_i, H_i, W_i) for each of `out_indices`;
    `feature_info.channels()` and `.reduction()` tell C_i and the strides.

    Raises:
        ValueError: no such model, one that gives no feature maps, levels that it has not; a picture of other channels.
        InputError: the weights cannot be fetched, or there is no such file.
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
        self._create = dict(in_chans=in_channels, **kwargs)
        create = dict(features_only=True, in_chans=in_channels, pretrained=pretrained, **kwargs)
        if checkpoint_path:
            if not Path(checkpoint_path).is_file():
                raise InputError(f"TimmBackbone: checkpoint_path {checkpoint_path}: no such file")
            # timm's own checkpoint_path wants the keys of the pruned model, which no released file has.
            create.update(pretrained=True, pretrained_cfg_overlay=dict(file=checkpoint_path))
        if out_indices is not None:
            create.update(out_indices=tuple(out_indices))
        try:
            self.model = timm.create_model(model_name, **create)
            if out_indices is None and len(self.model.feature_info.info) > 4:
                levels = len(self.model.feature_info.info)
                # timm prunes what lies behind the last index, so the choice has to be made when the model is built.
                create.update(out_indices=tuple(range(levels - 4, levels)))
                self.model = timm.create_model(model_name, **create)
            # timm loads into transformers whatever fits, and only logs the rest. What was not loaded is random, and so
            # comes out differently when the model is built again.
            again = timm.create_model(model_name, **create) if checkpoint_path else None
        except OSError as error:  # of huggingface_hub, too
            raise InputError(
                f"TimmBackbone: the weights of {model_name} could not be fetched ({type(error).__name__}: {error}); "
                "fetch them once on a machine with the network, or give checkpoint_path"
            ) from error
        # The last three where timm renames the keys of a file that is of another model, or no checkpoint.
        except (RuntimeError, AssertionError, IndexError, AttributeError, KeyError, UnpicklingError) as error:
            source = f" and the weights of {checkpoint_path}" if checkpoint_path else ""
            raise ValueError(
                f"TimmBackbone: timm does not build {model_name} as a backbone with these arguments{source}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if again is not None:
            pairs = zip(self.model.named_parameters(), again.parameters(), strict=True)
            if random := [name for (name, one), other in pairs if not torch.equal(one, other)]:
                raise InputError(
                    f"TimmBackbone: {checkpoint_path}: not weights of {model_name} (it leaves {len(random)} parameters "
                    f"as they were built: {', '.join(random[:4])})"
                )
        self.out_indices = tuple(self.model.feature_info.out_indices)
        # Transformers with windows keep their maps channels last.
        self._channels_last = "NHWC" in str(getattr(self.model, "output_fmt", ""))
        self.in_channels = in_channels
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        if with_cp:
            try:
                self.model.set_grad_checkpointing(True)
            except (AssertionError, AttributeError) as error:
                raise ValueError(
                    f"TimmBackbone: timm has no gradient checkpointing for {model_name}: with_cp must be False"
                ) from error
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

    @property
    def num_layers(self) -> int:
        """Layers as `layer_of` counts them."""
        return 1 + max(self._layers.values())

    def layer_of(self, name: str) -> int:
        """The layer of a parameter by timm's `group_matcher`, in 0..num_layers - 1 from stem to head.

        Raises:
            ValueError: the name is no parameter's; timm does not group this model's parameters.
        """
        if name not in self._layers:
            raise ValueError(f"TimmBackbone: {self.model_name} has no parameter {name!r}")
        return self._layers[name]

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay must leave alone: of one dimension, and those that timm names."""
        whole, names = self._whole()
        listed = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else set()
        return undecayed(self) | {name for name, old in names.items() if old in listed}

    def _whole(self) -> tuple[nn.Module, dict[str, str]]:
        """timm's whole network, without memory, and this one's names of parameters -> that one's."""
        with torch.device("meta"):
            whole = timm.create_model(self.model_name, **self._create)
        # A network of features has the parts of the first level, or the second where they stand in a row.
        old = {f"model.{new}": name for flat in (False, True) for new, name, _ in _module_list(whole, flat)}
        old |= {f"model.{kept}.{name}": name for kept in ("model", "body") for name, _ in whole.named_children()}
        there, names = dict(whole.named_parameters()), {}
        for name, _ in self.named_parameters():
            heads = [head for head in old if name.startswith(f"{head}.") or name == head]
            inside = [f"{old[head]}{name.removeprefix(head)}" for head in heads]
            bare = [name.removeprefix(f"model.{kept}.") for kept in ("model", "body")] + [name.removeprefix("model.")]
            names[name] = next((one for one in (*inside, *bare) if one in there), name)
        return whole, names

    @functools.cached_property
    def _layers(self) -> dict[str, int]:
        whole, names = self._whole()
        if not hasattr(whole, "group_matcher"):
            raise ValueError(
                f"TimmBackbone: timm does not group the parameters of {self.model_name}: its layers are not known"
            )
        olds = ((old, name) for name, old in names.items())
        grouped = group_with_matcher(olds, whole.group_matcher(coarse=False), return_values=True)
        return {name: layer for layer, group in grouped.items() for name in group}

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> a tuple of (B, C_i, H_i, W_i)."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"TimmBackbone: the input must be (B, {self.in_channels}, H, W), got {tuple(x.shape)}")
        maps = self.model(x)
        return tuple(x.permute(0, 3, 1, 2) for x in maps) if self._channels_last else tuple(maps)

    def init_weights(self) -> None:
        """Nothing to do: timm has initialised or loaded the weights when it built the model."""
        self._is_init = True

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        if isinstance(self.model, HighResolutionNetFeatures):
            raise ValueError(
                f"TimmBackbone: {self.model_name} has branches side by side, of which no level is the first to end: "
                "frozen_stages must be -1"
            )
        last = self.feature_info.info[self.frozen_stages]["module"]
        # As they stand in the network, or flattened, or in a wrapper that keeps the whole network.
        names = {last, last.replace(".", "_"), last.replace(".", "_", 1), f"model.{last}"}
        modules = dict(self.model.named_modules())
        end = next((name for name in modules if name in names), None)
        if end is None:
            raise ValueError(f"TimmBackbone: {self.model_name} does not show where level {self.frozen_stages} ends")
        # Modules stand in the order of the network. Those around the level's end go on after it: of them, only what
        # they hold themselves (a transformer's position embedding) lies before.
        for name, module in modules.items():
            around = not name or end.startswith(f"{name}.")
            if not around:
                module.eval()
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad = False
            if name == end:
                module.requires_grad_(False).eval()
                break
