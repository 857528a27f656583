"""Keys of DaViT and of Florence-2's vision towers."""

import re
from collections.abc import Callable

from ..backbones.davit import DaViT
from .key_map import KeyMap, Rule, matching, renaming

KINDS = ("spatial_block", "channel_block")
# What a Florence-2 file holds beside the tower.
BESIDE_THE_TOWER = r"^(language_model|image_proj|image_pos_embed|visual_temporal_embed)"


def davit(backbone: DaViT) -> dict[str, KeyMap]:
    """Here blocks are counted on; elsewhere they lie in pairs, numbered or, in Florence-2's towers, named."""
    florence2 = backbone.arch.channel_form == "florence2"

    def pairs(start: str, names: tuple[str, str]) -> Callable[[re.Match], str]:
        def rename(at: re.Match) -> str:
            stage, block = int(at[1]), int(at[2])
            turns = len(backbone.mixers(stage))
            place = names[block % 2] if turns == 2 else block % turns
            return f"{start.format(stage)}.{block // turns}.{place}."

        return rename

    block = r"^backbone\.stages\.(\d)\.blocks\.(\d+)\."
    timm = [
        (block, pairs("stages.{}.blocks", KINDS if florence2 else ("0", "1"))),
        (r"^backbone\.", ""),
        (r"\.cpe([12])\.conv\.", r".cpe\1.proj."),
        (r"\.token_mixer\.", ".attn."),
    ]
    maps = {"timm": KeyMap(renaming(timm, absent=r"^backbone\.norms\."))}  # timm's feature maps are not normalised
    if florence2:
        tower: list[Rule] = [
            (r"^backbone\.stem\.", "convs.0."),
            (r"^backbone\.stages\.(\d)\.downsample\.", r"convs.\1."),
            (r"^(convs\.\d)\.conv\.", r"\1.proj."),
            (block, pairs("blocks.{}", KINDS)),
            (r"\.cpe([12])\.conv\.", r".conv\1.fn.dw."),
            (r"(spatial_block)\.(norm1|token_mixer)\.", r"\1.window_attn.\2."),
            (r"(channel_block)\.(norm1|token_mixer)\.", r"\1.channel_attn.\2."),
            (r"_attn\.norm1\.", "_attn.norm."),
            (r"_attn\.token_mixer\.", "_attn.fn."),
            (r"\.norm2\.", ".ffn.norm."),
            (r"\.mlp\.", ".ffn.fn.net."),
        ]
        absent = r"^(head|backbone\.norms)\."  # the tower ends with its last map
        maps["official"] = KeyMap(renaming([*tower, ("^", "vision_tower.")], absent), skip=matching(BESIDE_THE_TOWER))
        maps["tower"] = KeyMap(renaming(tower, absent))
    else:
        official = [
            (r"^backbone\.stem\.", "patch_embeds.0."),
            (r"^backbone\.stages\.(\d)\.downsample\.", r"patch_embeds.\1."),
            (r"^(patch_embeds\.\d)\.conv\.", r"\1.proj."),
            (block, pairs("main_blocks.{}", ("0", "1"))),
            (r"\.cpe1\.conv\.", ".cpe.0.proj."),
            (r"\.cpe2\.conv\.", ".cpe.1.proj."),
            (r"\.token_mixer\.", ".attn."),
            (r"^backbone\.norms\.(\d)\.", r"norm\1."),
            (r"^head\.norm\.", "norms."),
            (r"^head\.fc\.", "head."),
        ]
        maps["official"] = KeyMap(renaming(official))
    return maps
