"""Checkpoints by scheme, `timm://davit_tiny.msft_in1k` or `hf-hub:owner/name`: for mmengine and every `init_cfg`."""

from typing import Any

import timm
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, LocalEntryNotFoundError
from mmengine.runner import CheckpointLoader
from torch import Tensor

from ..backbones.names import resolve_name
from ..backbones.reading import HUB, read_checkpoint
from ..errors import InputError
from .convert import convert_state_dict

HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # as timm and others name them; the first that is there


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


@CheckpointLoader.register_scheme(prefixes=HUB, force=True)
def load_hf_hub(filename: str, map_location: Any = "cpu") -> dict[str, Any]:
    """Weights of a repository of the Hugging Face hub, `hf-hub:owner/name` or `hf-hub:owner/name@revision`.

    They bear the names that the repository gives them; who loads them recognises timm's and the authors'.

    Raises:
        InputError: no such repository, revision or file of weights, or it cannot be fetched.
    """
    name, _, revision = filename.removeprefix(HUB).partition("@")
    for file in HUB_FILES:
        try:
            path = hf_hub_download(name, file, revision=revision or None)
        except HFValidationError as error:
            raise InputError(f"{filename}: not a repository's name: expected {HUB}owner/name") from error
        except (OSError, EntryNotFoundError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue  # the repository is there, this file is not
            raise InputError(
                f"{filename}: the weights could not be fetched ({type(error).__name__}: {_first_line(error)}); check "
                "the name, fetch them once on a machine with the network, or give the path of a local file"
            ) from error
        return read_checkpoint(path, map_location)
    raise InputError(f"{filename}: the repository has none of {', '.join(HUB_FILES)}; give the path of a local file")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "no reason given")
