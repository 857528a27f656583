"""Steps of a classification pipeline: read a picture, transform it by timm or torchvision, pack it.

    pipeline = [
        dict(type="LoadPicture"),
        dict(type="TimmTransform", input_size=224, is_training=True, auto_augment="rand-m9-mstd0.5-inc1"),
        dict(type="PackImageInputs"),
    ]

The model's data preprocessor normalises, so that a picture travels as uint8: a quarter of the bytes of float32 between
processes and to the GPU, and one place that knows mean and standard deviation. All randomness is Python's, NumPy's and
PyTorch's own, which mmengine seeds in every worker. A step is called with the dict of one sample, as mmcv's are, and
needs no mmcv.
"""

import difflib
import inspect
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from ..errors import InputError
from ..registry import TRANSFORMS
from .class_sample import ClassSample

_OTHER_OUTPUT = ("use_prefetcher", "separate", "naflex", "patchify", "patch_size", "max_seq_len")


@TRANSFORMS.register_module()
class LoadPicture:
    """Read `img_path` as `img`, a PIL picture in RGB; sets `ori_shape` and `img_shape`, (H, W).

    Where a sample has `span`, (file, first byte, bytes), the picture is that part of the file; see `TarShards`.
    Pictures are taken as they are stored, as timm and torchvision do: an orientation noted in EXIF is not applied.

    Raises:
        InputError: the file is missing or cannot be decoded; it is named.
    """

    def __call__(self, results: dict) -> dict:
        path = results["img_path"]
        try:
            with Image.open(_part(*results["span"]) if "span" in results else path) as file:
                # 16 bits of grey: PIL would make all from 256 on white.
                deep = file.mode.startswith("I;16")
                picture = (Image.fromarray((np.asarray(file) >> 8).astype(np.uint8)) if deep else file).convert("RGB")
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such picture; it was there when the folder was listed") from error
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # PIL: SyntaxError is a broken PNG
            raise InputError(f"{path}: cannot be decoded ({error}); replace the file or take it away") from error
        results["img"] = picture
        results["ori_shape"] = results["img_shape"] = (picture.height, picture.width)
        return results


def _part(path: str, first: int, size: int) -> io.BytesIO:
    """Bytes of a file from `first` on."""
    with open(path, "rb") as file:
        file.seek(first)
        return io.BytesIO(file.read(size))


class _PictureTransform:
    """Hands `img` to `self.run`."""

    run: Any

    def __call__(self, results: dict) -> dict:
        picture = results["img"]
        if isinstance(picture, np.ndarray):
            # mmcv's arrays are BGR; nothing would fail, and every picture would have red and blue exchanged.
            raise InputError(
                f"{type(self).__name__}: takes a PIL picture in RGB, got an array: load with dict(type='LoadPicture') "
                "in place of LoadImageFromFile"
            )
        results["img"] = self.run(picture)
        return results

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.run})"


@TRANSFORMS.register_module()
class TimmTransform(_PictureTransform):
    """timm's transforms: PIL picture -> tensor (3, H, W).

    Args:
        input_size: of the result; a number, (H, W) or (C, H, W).
        is_training: random crop, flip, colours and so on, or resize and centre crop.
        normalize: False gives uint8, which the model's data preprocessor normalises; True gives float32 with `mean` and
            `std` taken off, for a model whose preprocessor does not (else it happens twice).
        **settings: of `timm.data.create_transform`: `scale`, `ratio`, `hflip` (0.5 if training!), `color_jitter`,
            `auto_augment`, `interpolation`, `re_prob`, `re_mode`, `re_count`, `crop_pct`, `crop_mode`, `mean`, `std`.
            timm erases (`re_prob`) normalised pictures alone, so that needs `normalize=True`.

    Raises:
        InputError: timm has no such setting; one that gives something else than a tensor; erasing in uint8.
    """

    def __init__(
        self, input_size: int | Sequence[int] = 224, is_training: bool = False, normalize: bool = False, **settings: Any
    ) -> None:
        known = [name for name in inspect.signature(create_transform).parameters if name not in _OTHER_OUTPUT]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise InputError(f"TimmTransform: no setting {name!r}{hint}; there are {', '.join(known)}")
        if not normalize and settings.get("re_prob", 0) > 0:  # timm would pass it over in silence
            raise InputError(
                f"TimmTransform: re_prob={settings['re_prob']}: timm erases in normalised pictures alone: set "
                "normalize=True and data_preprocessor=dict(type='ImgDataPreprocessor') in the model, or erase by "
                "dict(type='TorchvisionTransform', transforms=[dict(type='RandomErasing', p=...)]) after this step"
            )
        size = input_size if isinstance(input_size, int) else tuple(input_size)
        self.run = create_transform(size, is_training=is_training, normalize=normalize, **settings)


def _build_v2(step: Any) -> Any:
    """A torchvision transform from its dict; lists within (RandomApply, RandomChoice) hold dicts of the same kind."""
    if not isinstance(step, dict):
        return step
    settings = {key: value for key, value in step.items() if key != "type"}
    name = step.get("type")
    kind = getattr(v2, name, None) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        names = [n for n in dir(v2) if isinstance(getattr(v2, n), type) and issubclass(getattr(v2, n), v2.Transform)]
        near = difflib.get_close_matches(str(name), names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"TorchvisionTransform: torchvision.transforms.v2 has no transform {name!r}{hint}")
    if isinstance(settings.get("transforms"), list | tuple):
        settings["transforms"] = [_build_v2(inner) for inner in settings["transforms"]]
    if isinstance(mode := settings.get("interpolation"), str):
        if mode not in (modes := [m.value for m in InterpolationMode]):
            raise InputError(f"TorchvisionTransform: {name}: no interpolation {mode!r}; there are {', '.join(modes)}")
        settings["interpolation"] = InterpolationMode(mode)
    if isinstance(dtype := settings.get("dtype"), str):
        if not isinstance(getattr(torch, dtype, None), torch.dtype):
            raise InputError(f"TorchvisionTransform: {name}: torch has no dtype {dtype!r}; as 'float32' or 'uint8'")
        settings["dtype"] = getattr(torch, dtype)
    try:
        return kind(**settings)
    except (TypeError, ValueError) as error:
        raise InputError(f"TorchvisionTransform: {name}: {error}") from error


@TRANSFORMS.register_module()
class TorchvisionTransform(_PictureTransform):
    """torchvision's transforms (v2) one after another: PIL picture -> PIL picture or tensor (C, H, W).

    Args:
        transforms: dicts with `type`, a name of `torchvision.transforms.v2`, and its arguments. Interpolations and
            dtypes are given as text: `dict(type="RandomResizedCrop", size=224, interpolation="bicubic")`.

    Raises:
        InputError: torchvision has no such transform, or it does not take the arguments.
    """

    def __init__(self, transforms: Sequence[dict]) -> None:
        self.run = v2.Compose([_build_v2(step) for step in transforms]) if transforms else v2.Identity()


@TRANSFORMS.register_module()
class PackImageInputs:
    """What a classifier takes: `inputs`, a tensor (C, H, W), uint8 if no step made it float; `data_samples`.

    Args:
        meta_keys: of the sample, copied from the results that have them.
    """

    def __init__(self, meta_keys: Sequence[str] = ("img_path", "ori_shape", "img_shape", "sample_idx")) -> None:
        self.meta_keys = tuple(meta_keys)

    def __call__(self, results: dict) -> dict:
        inputs = _tensor(results["img"])
        meta = {key: results[key] for key in self.meta_keys if key in results}
        if "img_shape" in self.meta_keys:
            meta["img_shape"] = tuple(inputs.shape[-2:])
        sample = ClassSample(metainfo=meta)
        if "gt_score" in results:  # several classes, or soft ones
            sample.set_gt_score(torch.as_tensor(results["gt_score"]))
        elif "gt_label" in results:
            sample.set_gt_label(results["gt_label"])
        return dict(inputs=inputs, data_samples=sample)


def _tensor(picture: Image.Image | Tensor) -> Tensor:
    if isinstance(picture, Tensor):
        return picture.as_subclass(Tensor).contiguous()  # torchvision's Image is a subclass, slower to handle
    if isinstance(picture, Image.Image):
        array = np.array(picture)
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        return torch.from_numpy(np.ascontiguousarray(array))
    raise InputError(
        f"PackImageInputs: takes a PIL picture or a tensor, got {type(picture).__name__}: load with "
        "dict(type='LoadPicture') in place of LoadImageFromFile"
    )
