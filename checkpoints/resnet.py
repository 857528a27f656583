"""Keys of ResNets with channel attention: torchvision's, to which timm and the ECA authors each add their own."""

from ..backbones.base import Backbone
from ..backbones.layers.channel_attention import attn_type
from .key_map import KeyMap, Rule, renaming


def resnet(backbone: Backbone) -> dict[str, KeyMap]:
    """A block's attention is `se` in timm, `eca` in ECA-Net's release; ELA's has no release, and no place in either."""
    deep = len(backbone.arch.stem_dims) > 1
    kind = attn_type(backbone.arch.attn)
    return {
        "timm": KeyMap(renaming(_rules("se", deep), None if kind in ("eca", "se", "cbam", "coord") else _ATTN)),
        "official": KeyMap(renaming(_rules("eca", deep), None if kind == "eca" else _ATTN)),
    }


_ATTN = r"\.join\.attn\."


def _rules(attn: str, deep: bool) -> list[Rule]:
    last = r"^backbone\.stem\.convs\.2\." if deep else r"^backbone\.stem\.convs\.0\."
    before = [  # a deep stem is a flat list of convolution, norm, ReLU; its last norm stands beside it
        (r"^backbone\.stem\.convs\.(\d)\.conv\.", lambda at: f"conv1.{3 * int(at[1])}."),
        (r"^backbone\.stem\.convs\.(\d)\.bn\.", lambda at: f"conv1.{3 * int(at[1]) + 1}."),
    ]
    return [
        (last + r"bn\.", "bn1."),
        *(before if deep else [(last + r"conv\.", "conv1.")]),
        (r"^backbone\.stages\.(\d)\.blocks\.(\d+)\.", lambda at: f"layer{int(at[1]) + 1}.{at[2]}."),
        (r"\.convs\.(\d)\.conv\.", lambda at: f".conv{int(at[1]) + 1}."),
        (r"\.convs\.(\d)\.bn\.", lambda at: f".bn{int(at[1]) + 1}."),
        (r"\.shortcut\.(\d)\.conv\.", r".downsample.\1."),
        (r"\.shortcut\.(\d)\.bn\.", lambda at: f".downsample.{int(at[1]) + 1}."),
        (r"\.join\.attn\.", f".{attn}."),
        (r"^head\.fc\.", "fc."),
    ]
