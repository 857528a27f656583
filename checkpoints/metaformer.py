"""Keys of the MetaFormer families."""

from ..backbones.base import Backbone
from .key_map import KeyMap, matching, renaming


def poolformer(backbone: Backbone) -> dict[str, KeyMap]:
    """Both have the MLP as 1 x 1 convolutions; the authors keep stages and downsampling layers in one flat list."""
    pointwise = matching(r"\.mlp\.fc[12]\.weight$")
    official = [
        (r"^backbone\.stem\.conv\.", "patch_embed.proj."),
        (r"^backbone\.stages\.(\d)\.downsample\.conv\.", lambda at: f"network.{2 * int(at[1]) - 1}.proj."),
        (r"^backbone\.stages\.(\d)\.blocks\.", lambda at: f"network.{2 * int(at[1])}."),
        (r"^backbone\.norms\.(\d)\.", lambda at: f"norm{2 * int(at[1])}."),
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
        (r"layer_scale([12])\.scale$", r"layer_scale_\1"),
    ]
    return {
        # timm's feature maps are not normalised.
        "timm": KeyMap(renaming([(r"^backbone\.", "")], absent=r"^backbone\.norms\."), pointwise),
        "official": KeyMap(renaming(official), pointwise),
    }
