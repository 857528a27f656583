"""Checkpoints by scheme: `timm://davit_tiny.msft_in1k`, for mmengine's loader and so for every `init_cfg`."""

import timm
from mmengine.runner import CheckpointLoader
from torch import Tensor

from ..backbones.names import resolve_name
from ..errors import InputError
from .convert import convert_state_dict


@CheckpointLoader.register_scheme(prefixes="timm://", force=True)
def load_timm(filename: str, map_location: str | None = None) -> dict[str, Tensor]:
    """Weights that timm has released, under our names: keys backbone.*, head.*.

    Raises:
        InputError: timm has no such model, this zoo does not have it, or its weights cannot be fetched.
    """
    name = filename.removeprefix("timm://")
    if not timm.is_model(name.partition(".")[0]):
        raise InputError(f"{filename}: timm {timm.__version__} has no such model")
    try:
        resolve_name(name.partition(".")[0])
    except ValueError as error:
        raise InputError(f"{filename}: {error}; TimmBackbone has timm's other models, with pretrained=True") from error
    try:
        model = timm.create_model(name, pretrained=True)
    except (OSError, RuntimeError) as error:  # huggingface_hub raises both, offline and for names that it does not know
        raise InputError(
            f"{filename}: the weights could not be fetched ({type(error).__name__}: {error}); fetch them once on a "
            "machine with the network, or give the path of a local file"
        ) from error
    return convert_state_dict(model.state_dict(), name, "timm", "bestiary")
