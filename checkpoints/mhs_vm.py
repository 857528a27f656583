"""Keys of MHS-VM: the authors' U-Net, its encoder alone and as a whole."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..backbones.base import Backbone
from ..backbones.layers.routes import ROUTES_OF_A_PATTERN
from ..errors import InputError
from .key_map import KeyMap, Rule, matching, renaming

LETTERS = {"continuous": "C", "diagonal": "X", "spiral": "S", "raster": "Z"}
ENGINE = {  # of ours, all heads in one; of theirs, one each
    "x_proj": "x_proj_weight",
    "dt_proj": "dt_projs_weight",
    "dt_bias": "dt_projs_bias",
    "A_log": "A_logs",
    "D": "Ds",
}
HEADS = ".mhs.heads.scan."
RULES: list[Rule] = [
    (r"^backbone\.stem\.conv\.", "vmunet.patch_embed.proj."),
    (r"^backbone\.stem\.norm\.", "vmunet.patch_embed.norm."),
    # There the layer that makes the map smaller is the end of a stage.
    (r"^backbone\.stages\.(\d)\.downsample\.", lambda at: f"vmunet.layers.{int(at[1]) - 1}.downsample."),
    (r"^backbone\.stages\.", "vmunet.layers."),
    (r"^decode_head\.stages\.", "vmunet.layers_up."),
    (r"^decode_head\.final\.", "vmunet.final_up."),
    (r"^decode_head\.conv_seg\.", "vmunet.final_conv."),
    (r"(\.blocks\.\d+)\.norm\.", r"\1.ln_1."),
    (r"\.token_mixer\.conv\.", ".self_attention.conv2d."),
    (r"\.token_mixer\.norm\.", ".self_attention.out_norm."),
    (r"\.token_mixer\.in_proj\.", ".self_attention.in_proj."),
    (r"\.token_mixer\.heads\.split\.", ".self_attention.mhs.x_ssproj."),
    (r"\.token_mixer\.heads\.norm\.", ".self_attention.mhs.cat_norm."),
    (r"\.token_mixer\.heads\.proj\.", ".self_attention.mhs.y_proj."),
    (r"\.token_mixer\.heads\.scan\.", f".self_attention{HEADS}"),
]
# Their files have some tensors under a second name; and a backbone takes no decoder.
ALIASES = r"\.mhs\.x_ssproj_W$|\.scanning\.seq2seq_engine\."
DECODER = r"^vmunet\.(layers_up|final_up|final_conv)\."


def mhs_vm(backbone: Backbone) -> dict[str, KeyMap]:
    """The encoder of the authors' U-Net. A classifier's head and a detector's norms they have not."""
    return {"official": _key_map(backbone, skip=f"{ALIASES}|{DECODER}")}


def _key_map(backbone: Backbone, skip: str) -> KeyMap:
    letters = [LETTERS[pattern] for pattern in backbone.arch.patterns]
    one_name = renaming(RULES, absent=r"^head\.|^backbone\.norms\.")

    def rename(key: str) -> str | tuple[str, ...] | None:
        theirs = one_name(key)
        if theirs is None or HEADS not in theirs:
            return theirs
        start, _, name = theirs.partition(HEADS)
        return tuple(f"{start}.mhs.scanhead_{letter}.mambaeng.{ENGINE[name]}" for letter in letters)

    def split(key: str, value: Tensor) -> tuple[Tensor, ...]:
        if ".heads.scan." not in key:
            return (value,)
        parts = value.chunk(len(letters))
        return tuple(part.flatten(0, 1) for part in parts) if key.endswith((".A_log", ".D")) else parts

    def join(key: str, *values: Tensor) -> Tensor:
        if ".heads.scan." not in key:
            return values[0]
        if key.endswith((".A_log", ".D")):
            values = tuple(value.unflatten(0, (ROUTES_OF_A_PATTERN, -1)) for value in values)
        return torch.cat(values)

    return KeyMap(rename, split=split, join=join, skip=matching(skip))


def unet_from_official(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of the authors' U-Net under the names of a segmentor of `MHSVMEncoder` and `MHSVMHead`.

    Args:
        state_dict: their file's, keys `vmunet.*`; second names of one tensor are passed over.
        model: the segmentor, an mmseg EncoderDecoder, of the same sizes.

    Raises:
        InputError: keys that the network has not, or that are missing.
    """
    key_map = _key_map(model.backbone, skip=ALIASES)
    names, given = key_map.names(_own(model)), key_map.weights(state_dict)
    wanted = {name for theirs in names.values() for name in theirs}
    for kind, keys in (("unexpected", given.keys() - wanted), ("missing", wanted - given.keys())):
        if keys:
            some = ", ".join(sorted(keys)[:5])
            raise InputError(
                f"not weights of this MHS-VM U-Net: {len(keys)} {kind} keys, {some}; "
                "see that depths, patterns and num_classes are the file's"
            )
    return key_map.read(names, given)


def unet_to_official(model: nn.Module) -> dict[str, Tensor]:
    """The weights of such a segmentor under the authors' names, each once."""
    return _key_map(model.backbone, skip=ALIASES).write(_own(model))


def _own(model: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if key.startswith(("backbone.", "decode_head."))}
