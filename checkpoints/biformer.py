"""Keys of BiFormer: the authors'."""

from ..backbones.biformer import BiFormer
from ..backbones.mixers import BiLevelRouting, DepthwiseMixing
from .key_map import KeyMap, Rule, matching, renaming


def biformer(backbone: BiFormer) -> dict[str, KeyMap]:
    """The release's names, those of its Swin layout, and those of its rewrite, whose linear layers are convolutions."""
    swin, nchw = backbone.arch.swin_layout, backbone.arch.form == "nchw"
    stem: list[Rule] = (
        [(r"^stem\.conv\.", "downsample_layers.0.0."), (r"^stem\.norm\.", "downsample_layers.0.1.")]
        if swin
        else [
            (r"^stem\.conv([12])\.", lambda at: f"downsample_layers.0.{3 * int(at[1]) - 3}."),
            (r"^stem\.norm([12])\.", lambda at: f"downsample_layers.0.{3 * int(at[1]) - 2}."),
        ]
    )
    conv, norm = (1, 0) if swin else (0, 1)
    official: list[Rule] = [
        (r"^backbone\.", ""),
        *stem,
        (r"^stages\.(\d)\.downsample\.conv\.", rf"downsample_layers.\g<1>.{conv}."),
        (r"^stages\.(\d)\.downsample\.norm\.", rf"downsample_layers.\g<1>.{norm}."),
        *(rule for stage in range(len(backbone.stages)) for rule in _mixer(backbone, stage, nchw)),
        (r"\.mlp\.fc1\.", ".mlp.0."),
        (r"\.mlp\.fc2\.", ".mlp.2." if swin else ".mlp.3."),  # elsewhere the place of an identity is counted
        (r"\.pos_embed\.conv\.", ".pos_embed."),
        (r"\.layer_scale([12])\.scale$", r".gamma\1"),
        *([] if swin else [(r"^(stages\.\d)\.blocks\.", r"\1.")]),
        (r"^norms\.(\d)\.", r"extra_norms.\1."),  # of the authors' detectors and segmentors
        (r"^head\.norm\.", "norm."),
        (r"^head\.fc\.", "head."),
    ]
    pointwise = r"\.token_mixer\.pwconv[12]\.weight$"
    if nchw:
        pointwise += r"|\.token_mixer\.(qkv|proj)\.weight$|\.mlp\.fc[12]\.weight$"
    return {"official": KeyMap(renaming(official), matching(pointwise))}


def _mixer(backbone: BiFormer, stage: int, nchw: bool) -> list[Rule]:
    mixer = backbone.stages[stage].blocks[0].token_mixer
    parts = {}  # what else there is bears its own name
    if isinstance(mixer, BiLevelRouting):
        parts = dict(qkv="qkv_linear", proj="output_linear") if nchw else dict(qkv="qkv.qkv", proj="wo")
        parts["router"] = "router.emb"
    elif isinstance(mixer, DepthwiseMixing):
        parts = dict(pwconv1="1", dwconv="2", pwconv2="3")
    start = rf"^(stages\.{stage}\.blocks\.\d+)\.token_mixer\."
    return [(start + rf"{ours}\.", rf"\1.attn.{theirs}.") for ours, theirs in parts.items()] + [(start, r"\1.attn.")]
