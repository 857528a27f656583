"""Keys of FocalNet."""

from ..backbones.base import Backbone
from .key_map import KeyMap, matching, renaming


def focalnet(backbone: Backbone) -> dict[str, KeyMap]:
    """timm has every linear layer as a 1 x 1 convolution, the authors `h` alone; their downsampling ends a stage."""
    both = [
        (r"^head\.norm\.", "norm."),
        (r"\.proj\.conv\.", ".proj."),
        (r"\.token_mixer\.", ".modulation."),
        (r"\.focal_layers\.(\d+)\.", r".focal_layers.\1.0."),
    ]
    post = [(r"\.norm([12])\.", r".norm\1_post.")] if backbone.arch.post_norm else []
    timm = [
        *both,
        *post,
        (r"^backbone\.stages\.", "layers."),
        (r"^backbone\.", ""),
        (r"\.layer_scale([12])\.scale$", r".ls\1.gamma"),
    ]
    official = [
        *both,
        (r"\.modulation\.norm\.", ".modulation.ln."),
        (r"^backbone\.stem\.", "patch_embed."),
        (r"^backbone\.stages\.(\d+)\.downsample\.", lambda at: f"layers.{int(at[1]) - 1}.downsample."),
        (r"^backbone\.stages\.", "layers."),
        (r"^backbone\.norms\.(\d+)\.", r"norm\1."),
        (r"\.layer_scale([12])\.scale$", r".gamma_\1"),
        (r"^head\.fc\.", "head."),
    ]
    return {
        # timm's feature maps are not normalised.
        "timm": KeyMap(
            renaming(timm, absent=r"^backbone\.norms\."),
            matching(r"\.(token_mixer\.(f|h|proj)|mlp\.fc[12])\.weight$"),
        ),
        "official": KeyMap(renaming(official), matching(r"\.token_mixer\.h\.weight$")),
    }
