"""What every backbone owes: OpenMMLab's arguments, one table of sizes a family, a tuple of feature maps."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from mmengine.model import BaseModule
from timm.models import FeatureInfo
from torch import Tensor, nn

from .pretrained import is_pretrained, load_pretrained
from .recompute import recomputed


class Arch:
    """A family's sizes as attributes: `arch.dims[0]`."""

    def __init__(self, name: str, values: Mapping[str, Any]) -> None:
        self.name = name
        self.__dict__.update(values)

    def __repr__(self) -> str:
        return repr(self.name)


def doubling(depths: tuple[int, ...], dim: int, head_dim: int | None = None, **more: Any) -> dict[str, Any]:
    """Sizes of an arch whose channels double from stage to stage, with heads of `head_dim` channels or without."""
    dims = tuple(dim * 2**stage for stage in range(len(depths)))
    heads = {} if head_dim is None else dict(num_heads=tuple(width // head_dim for width in dims))
    return dict(depths=depths, dims=dims, **heads, **more)


def undecayed(module: nn.Module) -> set[str]:
    """Names of the parameters in `module` that weight decay must leave alone.

    Those of one dimension (biases, norms, layer scales, slopes) and those that the module they belong to names in
    `NO_WEIGHT_DECAY`: tables of position, filters of channel gates, coefficients of scans.
    """
    parameters = dict(module.named_parameters())
    names = {name for name, parameter in parameters.items() if parameter.ndim <= 1}
    for prefix, part in module.named_modules():
        listed = [f"{prefix}.{name}" if prefix else name for name in getattr(part, "NO_WEIGHT_DECAY", ())]
        names.update(name for name in listed if name in parameters)
    return names


class FreezableModule(BaseModule):
    """Keeps what `_freeze` freezes, and batch norms if `norm_eval`, in evaluation mode while training."""

    norm_eval: bool

    def train(self, mode: bool = True) -> "FreezableModule":
        """Training mode, in which frozen stages, and batch norms if `norm_eval`, stay in evaluation mode."""
        super().train(mode)
        if mode:
            self._freeze()
            if self.norm_eval:
                for module in self.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.eval()
        return self


class Backbone(FreezableModule):
    """Stem, stages, a feature map a stage. A family fills `ARCHS`, `DEFAULTS`, `make_stem` and `make_stage`.

    Args:
        arch: a name of the family's `ARCHS`, or a dict with the same keys.
        in_channels: channels of the input picture.
        out_indices: stages whose maps are returned, in ascending order; negative ones count from the end. None: all.
        drop_path_rate: stochastic depth (arXiv:1603.09382) of the last block, in 0..1; it grows linearly from 0.
        frozen_stages: -1 trains all; 0 freezes the stem, n the stem and the first n stages.
        norm_eval: keep batch norms in evaluation mode while training.
        with_cp: recompute each block's activations in the backward pass instead of keeping them.
        init_cfg: mmengine's; `dict(type='Pretrained', checkpoint=...)` loads weights, and fails on keys that do not
            fit (`strict=False` in the dict lets them pass, with a log of their names).
        **changes: any key of `ARCHS` or `DEFAULTS`, in place of the table's value.

    Input: (B, in_channels, H, W), H and W of at least the total stride, or 32 where that is less.
    Output: a tuple, one (B, dims[i], ceil(H / stride_i), ceil(W / stride_i)) for each i of `out_indices`.

    Raises:
        ValueError: no such arch; a key that the family does not have; a stage out of range; a picture too small, of
            other channels, or of integers.
    """

    NAME: ClassVar[str]  # what stands before the arch in `list_backbones()`: poolformer + _s12
    ARCHS: ClassVar[dict[str, dict[str, Any]]]
    DEFAULTS: ClassVar[dict[str, Any]] = {}
    STRIDES: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)  # an arch with other stages has a key `strides`
    CHANNELS_LAST: ClassVar[bool] = True  # whether stages give (B, H, W, C), not (B, C, H, W)
    # Of a fresh norm on every returned map, as dense prediction has it; made where the arch's `out_norm` says so.
    OUT_NORM: ClassVar[Callable[[int], nn.Module] | None] = None
    # How the family's classifier ends: `type` and arguments of a head, where the paper has it so.
    HEAD: ClassVar[dict[str, Any]] = dict(type="LinearHead")

    def __init__(
        self,
        arch: str | Mapping[str, Any],
        in_channels: int = 3,
        out_indices: tuple[int, ...] | None = None,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: dict | None = None,
        **changes: Any,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = self._resolve(arch, changes)
        self.in_channels = in_channels
        self.out_indices = self._resolve_out_indices(out_indices)
        self.frozen_stages = self._check_frozen_stages(frozen_stages)
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        if not 0.0 <= drop_path_rate < 1.0:
            raise ValueError(f"{self._who}: drop_path_rate {drop_path_rate} is not in 0..1")
        counts = [self.num_blocks(stage) for stage in range(len(self.strides))]
        last = max(sum(counts) - 1, 1)
        rates = iter([drop_path_rate * block / last for block in range(sum(counts))])
        self.stem = self.make_stem(in_channels)
        # The stages after the last one that is returned would be dead weight, and unused parameters under DDP.
        self.stages = nn.ModuleList(
            self.make_stage(stage, [next(rates) for _ in range(counts[stage])])
            for stage in range(max(self.out_indices) + 1)
        )
        with_norms = self.OUT_NORM is not None and getattr(self.arch, "out_norm", False)
        self.norms = nn.ModuleDict(
            {str(stage): type(self).OUT_NORM(self.arch.dims[stage]) for stage in self.out_indices if with_norms}
        )
        self._freeze()

    @property
    def _who(self) -> str:
        return type(self).__name__

    @property
    def strides(self) -> tuple[int, ...]:
        """Pixels of the picture to one of a stage's map, for every stage of the arch."""
        return tuple(getattr(self.arch, "strides", self.STRIDES))

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and stride of each stage, as timm has it: `.channels()`, `.reduction()` of the returned ones."""
        info = [
            dict(num_chs=dim, reduction=stride, module=f"stages.{stage}")
            for stage, (dim, stride) in enumerate(zip(self.arch.dims, self.strides, strict=True))
        ]
        return FeatureInfo(info, self.out_indices)

    @classmethod
    def name_of(cls, arch: str) -> str:
        """The public name of an arch: `davit_tiny`."""
        return f"{cls.NAME}_{arch}"

    @classmethod
    def like_timm(cls, arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What to change for timm's arithmetic where it is not the paper's: keys of the arch, keys of `HEAD`."""
        return {}, {}

    @classmethod
    def head(cls, arch: str) -> dict[str, Any]:
        """`type` and arguments of the arch's classification head."""
        return dict(cls.HEAD)

    def num_blocks(self, stage: int) -> int:
        """Blocks of a stage that have a drop path rate of their own."""
        return self.arch.depths[stage]

    @property
    def num_layers(self) -> int:
        """Layers as `layer_of` counts them: the stem and every block."""
        return 1 + sum(len(stage.blocks) for stage in self.stages)

    def layer_of(self, name: str) -> int:
        """The layer of a parameter, in 0..num_layers - 1 from stem to head: 0 the stem, then a layer a block.

        A downsampling layer goes with the block behind it. Norms of the returned maps are of the last layer, whatever
        their stage: they begin fresh and have to learn.

        Raises:
            ValueError: the name is no parameter's.
        """
        part, *rest = name.split(".")
        if part == "stem":
            return 0
        if part == "norms":
            return self.num_layers - 1
        if part == "stages" and len(rest) > 2:
            stage, index = int(rest[0]), int(rest[2]) if rest[1] == "blocks" else 0
            return 1 + sum(len(before.blocks) for before in self.stages[:stage]) + index
        raise ValueError(
            f"{self._who}: {name!r} is no parameter of stem, stages or norms: layer_of must tell its layer"
        )

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that weight decay must leave alone, see `undecayed`."""
        return undecayed(self)

    def adapt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the same network at another size (windows, kernels, tables) brought to this one's shapes.

        Keys are this backbone's. What fits already is left as it is; what cannot be brought over, too.
        """
        return weights

    def make_stem(self, in_channels: int) -> nn.Module:
        """A layer from the picture (B, in_channels, H, W) to what the first stage takes."""
        raise NotImplementedError(f"{self._who} does not define make_stem")

    def make_stage(self, stage: int, drop_path: list[float]) -> nn.Module:
        """Stage `stage`, with one drop path rate a block. It is called with its input and `with_cp`."""
        raise NotImplementedError(f"{self._who} does not define make_stage")

    def to_map(self, stage: int, x: Tensor) -> Tensor:
        """What stage `stage` gave -> the (B, C, H, W) that is returned, normalised where there are output norms."""
        if str(stage) in self.norms:
            x = self.norms[str(stage)](x)
        return x.permute(0, 3, 1, 2) if self.CHANNELS_LAST else x

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> a tuple of (B, C_i, H_i, W_i)."""
        self._check_input(x)
        x = self.stem(x)
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x, with_cp=self.with_cp)
            if index in self.out_indices:
                maps.append(self.to_map(index, x))
        return tuple(maps)

    def init_weights(self) -> None:
        """Initialise by `init_cfg`; a pretrained checkpoint is loaded strictly, reporting every key that misfits."""
        if is_pretrained(self.init_cfg):
            load_pretrained(self, self.init_cfg)
            self._is_init = True
        else:
            super().init_weights()

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (self.stem, *self.stages[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)

    @classmethod
    def _resolve(cls, arch: str | Mapping[str, Any], changes: Mapping[str, Any]) -> Arch:
        if isinstance(arch, str):
            if arch not in cls.ARCHS:
                near = difflib.get_close_matches(arch, cls.ARCHS, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                names, keys = ", ".join(cls.ARCHS), ", ".join(next(iter(cls.ARCHS.values())))
                raise ValueError(f"{cls.__name__}: no arch {arch!r}; there are {names}{hint}, or give a dict of {keys}")
            name, given = arch, cls.ARCHS[arch]
        else:
            name, given = "custom", dict(arch)
        known = {*cls.DEFAULTS, *(key for table in cls.ARCHS.values() for key in table)}
        for key in (*given, *changes):
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(f"{cls.__name__}: no argument {key!r}; an arch has {', '.join(sorted(known))}{hint}")
        values = {**cls.DEFAULTS, **given, **changes}
        if absent := [key for key in next(iter(cls.ARCHS.values())) if key not in values]:
            raise ValueError(f"{cls.__name__}: the arch {dict(arch)} lacks {', '.join(absent)}")
        table = {**cls.DEFAULTS, **next(iter(cls.ARCHS.values()))}
        stages = len(values.get("strides", cls.STRIDES))
        for key, value in values.items():
            a_stage = isinstance(table.get(key), tuple) and len(table[key]) == len(cls.STRIDES)
            if a_stage and (isinstance(value, str) or not isinstance(value, Sequence) or len(value) != stages):
                raise ValueError(f"{cls.__name__}: {key} {value!r} must have {stages} entries, one a stage")
        return Arch(name, values)

    def _resolve_out_indices(self, out_indices: tuple[int, ...] | None) -> tuple[int, ...]:
        stages = len(self.strides)
        if out_indices is None:
            return tuple(range(stages))
        resolved = [index + stages if index < 0 else index for index in out_indices]
        if not resolved or resolved != sorted(set(resolved)) or not all(0 <= index < stages for index in resolved):
            raise ValueError(
                f"{self._who}: out_indices {tuple(out_indices)} must be ascending stages of 0..{stages - 1}"
            )
        return tuple(resolved)

    def _check_frozen_stages(self, frozen_stages: int) -> int:
        stages = len(self.strides)
        if not -1 <= frozen_stages <= stages:
            raise ValueError(f"{self._who}: frozen_stages {frozen_stages} is not in -1..{stages}")
        return frozen_stages

    def _check_input(self, x: Tensor) -> None:
        least = min(self.strides[max(self.out_indices)], 32)
        if not x.is_floating_point():
            raise ValueError(f"{self._who}: the input must be floating point, got {x.dtype}: convert and normalise it")
        if x.ndim != 4 or x.shape[1] != self.in_channels or min(x.shape[2:]) < least:
            raise ValueError(
                f"{self._who}: the input must be (B, {self.in_channels}, H, W) with H and W of at least {least}, "
                f"got {tuple(x.shape)}"
            )


class Stage(nn.Module):
    """A downsampling layer, or none, and blocks."""

    def __init__(self, downsample: nn.Module | None, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.downsample = nn.Identity() if downsample is None else downsample
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, with_cp: bool = False) -> Tensor:
        return self.run_blocks(self.downsample(x), with_cp)

    def run_blocks(self, x: Tensor, with_cp: bool = False) -> Tensor:
        """What comes behind the downsampling layer."""
        for block in self.blocks:
            x = recomputed(block, x) if with_cp and torch.is_grad_enabled() else block(x)
        return x
