"""Keys of the MetaFormer families."""

import re


def poolformer_is_pointwise(key: str) -> bool:
    """timm and the authors have PoolFormer's MLP as 1 x 1 convolutions."""
    return re.search(r"\.mlp\.fc[12]\.weight$", key) is not None


def poolformer_to_timm(key: str) -> str | None:
    """backbone.stages.1.blocks.0.mlp.fc1.weight -> stages.1.blocks.0.mlp.fc1.weight; head keys as they are."""
    if key.startswith("backbone.norms."):
        return None  # timm's feature maps are not normalised
    return key.removeprefix("backbone.")


def poolformer_to_official(key: str) -> str | None:
    """backbone.stages.1.blocks.0.mlp.fc1.weight -> network.2.0.mlp.fc1.weight, and so on."""
    for pattern, theirs in (
        (r"backbone\.stem\.conv\.", lambda at: "patch_embed.proj."),
        # Stages and downsampling layers stand in one flat list, in turn.
        (r"backbone\.stages\.(\d)\.downsample\.conv\.", lambda at: f"network.{2 * int(at[1]) - 1}.proj."),
        (r"backbone\.stages\.(\d)\.blocks\.", lambda at: f"network.{2 * int(at[1])}."),
        (r"backbone\.norms\.(\d)\.", lambda at: f"norm{2 * int(at[1])}."),
        (r"head\.norm\.", lambda at: "norm."),
        (r"head\.fc\.", lambda at: "head."),
    ):
        renamed, done = re.subn("^" + pattern, theirs, key)
        if done:
            return re.sub(r"layer_scale([12])\.scale$", r"layer_scale_\1", renamed)
    return None
