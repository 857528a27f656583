"""The second half of MHS-VM's U-Net (arXiv:2406.05992), for mmseg.

Not imported by the room, which works without mmseg: a config says
`custom_imports = dict(imports=["bestiary", "bestiary.heads.mhs_vm_head"])`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from ..backbones.layers import Linear, crop, init_truncated
from ..backbones.mhs_vm import SCAN, make_blocks
from ..registry import MODELS


class PatchExpand(nn.Module):
    """A linear layer whose channels become pixels, and a norm: (B, H, W, C) -> (B, s * H, s * W, C_out)."""

    def __init__(self, in_channels: int, out_channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.expand = Linear(in_channels, scale * scale * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        scale, channels = self.scale, self.norm.normalized_shape[0]
        x = self.expand(x).view(batch, height, width, scale, scale, channels).transpose(2, 3)
        return self.norm(x.reshape(batch, scale * height, scale * width, channels))


class DecoderStage(nn.Module):
    """A layer that makes the map twice as large, or none, and blocks."""

    def __init__(self, upsample: nn.Module | None, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.upsample = nn.Identity() if upsample is None else upsample
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.blocks(crop(self.upsample(x), size))


@MODELS.register_module()
class MHSVMHead(BaseDecodeHead):
    """Stages of scan blocks that grow a map back to the picture's size, with the encoder's maps added on the way.

    Args:
        in_channels: of the encoder's five maps, `MHSVMEncoder`'s `feature_info.channels()`.
        num_classes: classes, as for every head of mmseg.
        depths: blocks a stage, coarsest first.
        drop_path_rate: stochastic depth of the first block, in 0..1; it falls linearly to 0.
        scan: keys of the encoder's arch that are not its defaults (`patterns`, `d_state`, `threshold`, ...;
            `token_mixers` in the encoder's order, finest first).
        init_cfg: mmengine's; by default all layers begin as the authors'.
        **kwargs: mmseg's (`loss_decode`, `dropout_ratio`, 0 here, `ignore_index`, `align_corners`, ...).

    Input: what goes into each of the encoder's stages, and what the last one gives, five (B, C_i, H_i, W_i).
    Output: (B, num_classes, 4 * H_0, 4 * W_0).

    Raises:
        ValueError: not five numbers of channels, not four depths, or an unknown key in `scan`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        depths: Sequence[int] = (2, 2, 2, 1),
        drop_path_rate: float = 0.0,
        scan: Mapping[str, Any] | None = None,
        init_cfg: dict | list | None = None,
        **kwargs: Any,
    ) -> None:
        if len(in_channels) != 5 or len(depths) != 4:
            raise ValueError(
                f"MHSVMHead: in_channels {list(in_channels)} must be of MHSVMEncoder's five maps, depths "
                f"{list(depths)} of four stages"
            )
        if unknown := [key for key in scan or {} if key not in SCAN]:
            raise ValueError(f"MHSVMHead: scan has no {unknown[0]!r}; there are {', '.join(SCAN)}")
        if in_channels[0] % 4:
            raise ValueError(f"MHSVMHead: in_channels {in_channels[0]} of the first map must be a multiple of 4")
        super().__init__(
            list(in_channels), in_channels[0] // 4, num_classes=num_classes, input_transform="multiple_select",
            in_index=list(range(5)), init_cfg=init_cfg, **{"dropout_ratio": 0.0, **kwargs},
        )  # fmt: skip
        arch, dims, total = {**SCAN, **(scan or {})}, list(in_channels[:4])[::-1], sum(depths)
        rates = [drop_path_rate * (total - 1 - at) / max(total - 1, 1) for at in range(total)]
        self.stages = nn.ModuleList()
        for stage, depth in enumerate(depths):
            upsample = PatchExpand(dims[stage - 1], dims[stage], 2) if stage else None
            mixer = arch["token_mixers"][3 - stage]
            some, rates = rates[:depth], rates[depth:]
            self.stages.append(DecoderStage(upsample, make_blocks(mixer, dims[stage], some, arch)))
        self.final = PatchExpand(dims[-1], dims[-1] // 4, 4)
        init_truncated(self, nn.Linear)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Five maps -> scores of the classes."""
        *skips, x = (x.permute(0, 2, 3, 1) for x in self._transform_inputs(inputs))
        for number, (stage, like) in enumerate(zip(self.stages, skips[::-1], strict=True)):
            if number:
                x = x + skips[-number]
            x = stage(x, like.shape[1:3])
        return self.cls_seg(self.final(x).permute(0, 3, 1, 2))
