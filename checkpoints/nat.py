"""Keys of NAT, DiNAT, DiNAT_s and the isotropic networks."""

import torch
from torch import Tensor

from ..backbones.base import Backbone
from .key_map import KeyMap, Rule, matching, renaming

MIXER = r"(\.blocks\.\d+)\.token_mixer\."
HEAD: list[Rule] = [(r"^head\.norm\.", "norm."), (r"^head\.fc\.", "head.")]
DENSE: Rule = (r"^norms\.(\d)\.", r"norm\1.")  # of the authors' detectors and segmentors


def nat(backbone: Backbone) -> dict[str, KeyMap]:
    """NAT and DiNAT: the authors' names, and those of Hugging Face's transformers."""
    official = [
        (r"^backbone\.", ""),
        (r"^stem\.conv([12])\.", lambda at: f"patch_embed.proj.{int(at[1]) - 1}."),
        (r"^stem\.norm\.", "patch_embed.norm."),
        # There the layer that makes the map smaller is the end of a stage.
        (r"^stages\.(\d)\.downsample\.conv\.", lambda at: f"levels.{int(at[1]) - 1}.downsample.reduction."),
        (r"^stages\.(\d)\.downsample\.norm\.", lambda at: f"levels.{int(at[1]) - 1}.downsample.norm."),
        (r"^stages\.", "levels."),
        (MIXER, r"\1.attn."),
        (r"\.layer_scale([12])\.scale$", r".gamma\1"),
        DENSE,
        *HEAD,
    ]
    return {"official": KeyMap(renaming(official)), "transformers": _transformers(backbone.NAME)}


def dinat_s(backbone: Backbone) -> dict[str, KeyMap]:
    """Swin's names: layers, and the merging at the end of each."""
    official = [
        (r"^backbone\.", ""),
        (r"^stem\.conv\.", "patch_embed.proj."),
        (r"^stem\.norm\.", "patch_embed.norm."),
        (r"^stages\.(\d)\.downsample\.", lambda at: f"layers.{int(at[1]) - 1}.downsample."),
        (r"^stages\.", "layers."),
        (MIXER, r"\1.attn."),
        DENSE,
        *HEAD,
    ]
    return {"official": KeyMap(renaming(official))}


def isotropic(backbone: Backbone) -> dict[str, KeyMap]:
    """One list of layers; the global attention's index table is no weight."""
    official = [
        (r"^backbone\.", ""),
        (r"^stem\.conv\.", "patch_embed.proj."),
        (r"^stem\.norm\.", "patch_embed.norm."),
        (r"^stages\.0\.blocks\.(\d+)\.token_mixer\.", r"layers.\1.attn."),
        (r"^stages\.0\.blocks\.", "layers."),
        *HEAD,
    ]
    skip = matching(r"\.relative_position_index$")
    return {"official": KeyMap(renaming(official, absent=r"^backbone\.norms\."), skip=skip)}


def _transformers(name: str) -> KeyMap:
    rules = [
        (r"^head\.norm\.", f"{name}.layernorm."),
        (r"^head\.fc\.", "classifier."),
        (
            r"^backbone\.stem\.conv([12])\.",
            lambda at: f"{name}.embeddings.patch_embeddings.projection.{int(at[1]) - 1}.",
        ),
        (r"^backbone\.stem\.norm\.", f"{name}.embeddings.norm."),
        (
            r"^backbone\.stages\.(\d)\.downsample\.",
            lambda at: f"{name}.encoder.levels.{int(at[1]) - 1}.downsample.",
        ),
        (r"\.downsample\.conv\.", ".downsample.reduction."),
        (r"^backbone\.stages\.(\d)\.blocks\.", rf"{name}.encoder.levels.\1.layers."),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.token_mixer\.proj\.", ".attention.output.dense."),
        (r"\.token_mixer\.", ".attention.self."),
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
        (r"\.layer_scale[12]\.scale$", ".layer_scale_parameters"),  # (2, C) there, a row each
    ]
    one_name = renaming(rules, absent=r"^backbone\.norms\.")

    def rename(key: str) -> str | tuple[str, ...] | None:
        theirs = one_name(key)
        if theirs and ".attention.self.qkv." in theirs:
            return tuple(theirs.replace(".qkv.", f".{part}.") for part in ("query", "key", "value"))
        return theirs

    def split(key: str, value: Tensor) -> tuple[Tensor, ...]:
        if ".qkv." in key:
            return value.chunk(3)
        return (value[None],) if ".layer_scale" in key else (value,)

    def join(key: str, *values: Tensor) -> Tensor:
        if ".layer_scale" in key:
            return values[0][int(key.partition(".layer_scale")[2][0]) - 1]
        return torch.cat(values) if len(values) > 1 else values[0]

    return KeyMap(rename, split=split, join=join)
