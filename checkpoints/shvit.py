"""Keys of SHViT."""

import re

from ..backbones.base import Backbone
from .key_map import KeyMap, matching, renaming


def shvit(backbone: Backbone) -> dict[str, KeyMap]:
    """timm names the residual branches `m`; the authors keep a stage's downsampling in the list of its blocks."""
    pointwise = matching(r"\.se\.fc[12]\.weight$")
    leaves = [
        (r"^backbone\.stem\.convs\.(\d)\.", lambda at: f"patch_embed.{2 * int(at[1])}."),
        (r"^backbone\.", ""),
        (r"\.downsample\.conv([12])\.conv\.", lambda at: f".downsample.{3 * int(at[1]) - 3}.m."),
        (r"\.downsample\.mlp([12])\.fc(\d)\.", lambda at: f".downsample.{3 * int(at[1]) - 2}.m.pw{at[2]}."),
        (r"\.downsample\.merging\.", ".downsample.2."),
        (r"(\.blocks\.\d+\.conv)\.conv\.", r"\1.m."),
        (r"\.token_mixer\.norm\.", ".mixer.m.pre_norm."),
        (r"\.token_mixer\.qkv\.", ".mixer.m.qkv."),
        (r"\.token_mixer\.proj\.", ".mixer.m.proj.1."),
        (r"\.mlp\.fc(\d)\.", r".ffn.m.pw\1."),
        (r"\.conv\.weight$", ".c.weight"),
        (r"^head\.norm\.", "head.bn."),
        (r"^head\.fc\.", "head.l."),
    ]
    official = [
        *leaves,
        (r"^stages\.0\.blocks\.", "blocks1."),
        # The list begins with a pair, the merging and another pair; the blocks follow.
        (r"^stages\.(\d)\.downsample\.(\d)\.", _in_the_list),
        (r"^stages\.(\d)\.blocks\.(\d+)\.", lambda at: f"blocks{int(at[1]) + 1}.{int(at[2]) + 3}."),
    ]
    return {"timm": KeyMap(renaming(leaves), pointwise), "official": KeyMap(renaming(official), pointwise)}


def _in_the_list(at: re.Match) -> str:
    place = {"0": "0.0", "1": "0.1", "2": "1", "3": "2.0", "4": "2.1"}[at[2]]
    return f"blocks{int(at[1]) + 1}.{place}."
