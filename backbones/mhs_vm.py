"""MHS-VM: scans of sub-spaces along routes of many shapes (Ji, arXiv:2406.05992).

The paper's network is a U-Net for medical segmentation: `MHSVMEncoder` is its first half, `MHSVMHead` among the heads
its second. The backbones of classifiers and detectors, `MHSVM`, are made of the same blocks; nobody has published
weights of them.
"""

from collections.abc import Mapping
from typing import Any

from timm.layers import DropPath
from timm.models import FeatureInfo
from torch import Tensor, nn

from ..registry import MODELS
from .base import Backbone, Stage, doubling
from .layers import PatchMerging, PatchStem, init_truncated
from .mixers import build_mixer


class ScanBlock(nn.Module):
    """Norm, mixer, residual; no MLP: (B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, dim: int, token_mixer: nn.Module, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.token_mixer = token_mixer
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.token_mixer(self.norm(x)))


SCAN = dict(
    patterns=["continuous", "diagonal", "spiral", "raster"],  # a list: a tuple of four would be one a stage
    d_state=16,
    threshold=0.0,
    with_proj=True,
    gated=True,
    token_mixers=("MultiHeadScan",) * 4,
)


@MODELS.register_module()
class MHSVM(Backbone):
    """Multi-head scans in four stages. Arguments, output and errors: see `Backbone`.

    Keys of `changes`: `patterns`, a scan pattern a head ('continuous', 'diagonal', 'spiral', 'raster'; every one of
    `dims` is a multiple of their number); `d_state`, states a channel; `threshold` of the scan-route attention, 0 in
    the authors' module, 0.5 in their ISIC 2018 config: `MultiHeadScan` says what that means when training starts;
    `with_proj` and `gated`, see there; `token_mixers`, a mixer a stage (a registered name, or a dict of `type` and
    arguments); `out_norm`, a layer norm on every returned map.
    """

    NAME = "mhsvm"
    ARCHS: dict[str, dict[str, Any]] = {
        "tiny": doubling((2, 2, 14, 2), 128),
        "small": doubling((2, 2, 31, 2), 128),
        "base": doubling((2, 2, 29, 2), 176),
    }
    DEFAULTS = SCAN | dict(out_norm=True)
    OUT_NORM = nn.LayerNorm
    HEAD = dict(type="LinearHead", norm="LayerNorm", norm_first=True)

    def __init__(self, arch: str | Mapping[str, Any] = "tiny", *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)
        init_truncated(self, nn.Linear)  # convolutions keep PyTorch's

    def make_stem(self, in_channels: int) -> nn.Module:
        return PatchStem(in_channels, self.arch.dims[0], 4)

    def make_stage(self, stage: int, drop_path: list[float]) -> nn.Module:
        arch, dim = self.arch, self.arch.dims[stage]
        merging = PatchMerging(arch.dims[stage - 1], dim) if stage else None
        return Stage(merging, make_blocks(arch.token_mixers[stage], dim, drop_path, vars(arch)))


def make_blocks(
    token_mixer: str | Mapping[str, Any], dim: int, drop_path: list[float], arch: Mapping
) -> list[nn.Module]:
    """A block for each rate of `drop_path`; `arch` has the values of `SCAN`'s keys."""
    offered = {key: arch[key] for key in ("patterns", "d_state", "threshold", "with_proj", "gated")}
    return [ScanBlock(dim, build_mixer(token_mixer, dim, **offered), rate) for rate in drop_path]


@MODELS.register_module()
class MHSVMEncoder(MHSVM):
    """The first half of the paper's U-Net. Arguments and errors: see `Backbone`; keys of `changes`: see `MHSVM`.

    Output: five maps, for `MHSVMHead`: what goes into each stage's blocks, behind the layer that makes the map smaller,
    (B, dims[i], H_i, W_i); and what the last stage gives, (B, dims[3], H_3, W_3). Sizes are rounded up.
    """

    ARCHS = {
        "small": doubling((2, 2, 2, 2), 96),
        "large": doubling((2, 2, 9, 2), 96),
    }
    DEFAULTS = SCAN

    def __init__(self, arch: str | Mapping[str, Any] = "small", *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)
        if len(self.out_indices) != len(self.strides):
            raise ValueError(f"{self._who}: out_indices {self.out_indices} must be all stages, the decoder takes them")

    @property
    def feature_info(self) -> FeatureInfo:
        """Channels and stride of the five maps."""
        places = [*zip(self.arch.dims, self.strides, strict=True), (self.arch.dims[-1], self.strides[-1])]
        info = [
            dict(num_chs=dim, reduction=stride, module=f"stages.{min(number, len(self.stages) - 1)}")
            for number, (dim, stride) in enumerate(places)
        ]
        return FeatureInfo(info, tuple(range(len(places))))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> five (B, C_i, H_i, W_i)."""
        self._check_input(x)
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage.downsample(x)
            maps.append(x)
            x = stage.run_blocks(x, with_cp=self.with_cp)
        return tuple(x.permute(0, 3, 1, 2) for x in (*maps, x))
