"""Keys of the MetaFormer families."""

from ..backbones.base import Backbone
from ..backbones.mixers import SelfAttention
from .key_map import KeyMap, Rule, matching, renaming


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


def baselines(backbone: Backbone) -> dict[str, KeyMap]:
    """timm has 1 x 1 convolutions in stages without attention; the authors count downsampling layers from the stem on.

    Neither has output norms.
    """
    official = [
        (r"^backbone\.stem\.conv\.", "downsample_layers.0.conv."),
        (r"^backbone\.stem\.norm\.", "downsample_layers.0.post_norm."),
        (r"^backbone\.stages\.(\d)\.downsample\.conv\.", r"downsample_layers.\1.conv."),
        (r"^backbone\.stages\.(\d)\.downsample\.norm\.", r"downsample_layers.\1.pre_norm."),
        (r"^backbone\.stages\.(\d)\.blocks\.", r"stages.\1."),
        *_head(backbone, "norm.", "head."),
    ]
    timm = [(r"^backbone\.", ""), *_head(backbone, "head.norm.", "head.fc.")]
    absent = r"^backbone\.norms\."
    convolved = [
        stage
        for stage, layers in enumerate(backbone.stages)
        if len(layers.blocks) and not isinstance(layers.blocks[0].token_mixer, SelfAttention)
    ]
    stages = "".join(map(str, convolved))
    linear = rf"^backbone\.stages\.[{stages}]\..*(\.mlp\.fc[12]|\.token_mixer\.pwconv[12])\.weight$"
    pointwise = {"pointwise": matching(linear)} if convolved else {}
    return {
        "timm": KeyMap(renaming(timm, absent), **pointwise),
        "official": KeyMap(renaming(official, absent)),
    }


def _head(backbone: Backbone, norm: str, last: str) -> list[Rule]:
    if backbone.HEAD["type"] != "MlpHead":
        return [(r"^head\.norm\.", norm), (r"^head\.fc\.", last)]
    return [  # in an order in which no result is renamed again
        (r"^head\.norm\.", norm),
        (r"^head\.fc\.", f"{last}fc2."),
        (r"^head\.hidden\.", f"{last}fc1."),
        (r"^head\.hidden_norm\.", f"{last}norm."),
    ]
