"""What a person hands over to predict on: files, folders, patterns, arrays, tensors -> pictures."""

import glob
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..errors import InputError
from .predictor import Given

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
VIDEOS = {".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"}
Source = Any  # a path, folder or pattern; PIL picture; array; tensor; or a list of them


class Found(NamedTuple):
    """A picture or video file, and its place below what was given."""

    path: Path
    relative: Path


def find_files(given: Sequence[str | Path], out: Path | None = None, videos: bool = False) -> list[Found]:
    """Files, folders (searched to the bottom, in order of names) and patterns (`'shots/**/*.jpg'`) -> files, each once.

    Args:
        given: paths and patterns.
        out: a folder for results, whose files are not taken.
        videos: whether videos in folders are taken, too.

    Raises:
        InputError: something is not there; a folder or pattern has no pictures; `out` is one of the folders.
    """
    suffixes = SUFFIXES | (VIDEOS if videos else set())
    found: dict[Path, Found] = {}
    for one in given:
        path = Path(one)
        if path.is_dir():
            if out is not None and path.resolve() == out.resolve():
                raise InputError(f"--out {out}: the pictures come from that folder; name another")
            inside = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in suffixes and file.is_file()]
            inside = [file for file in inside if out is None or out not in file.parents]
            if not inside:
                raise InputError(f"{path}: no pictures in this folder; expected {', '.join(sorted(suffixes))}")
            files = [Found(file, file.relative_to(path)) for file in inside]
        elif path.is_file():
            files = [Found(path, Path(path.name))]
        elif is_pattern(str(one)):
            files = _matching(str(one), suffixes, out)
        else:
            raise InputError(f"{path}: no such picture or folder")
        for file in files:
            found.setdefault(file.path, file)
    return list(found.values())


def is_pattern(text: str) -> bool:
    """Whether it has `*`, `?` or `[`."""
    return glob.has_magic(text)


def _matching(pattern: str, suffixes: set[str], out: Path | None) -> list[Found]:
    fixed = Path(*[part for part in _until_pattern(Path(pattern))])
    paths = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    paths = [path for path in paths if path.is_file() and path.suffix.lower() in suffixes]
    paths = [path for path in paths if out is None or out not in path.parents]
    if not paths:
        raise InputError(f"{pattern}: no picture fits this pattern; expected files of {', '.join(sorted(suffixes))}")
    return [Found(path, path.relative_to(fixed)) for path in paths]


def _until_pattern(path: Path) -> Iterator[str]:
    for part in path.parts[:-1]:
        if is_pattern(part):
            return
        yield part


def one_picture(source: Source) -> bool:
    """Whether `source` is a single picture, not a folder, pattern, list or batch of them."""
    if isinstance(source, str | Path):
        return not (Path(source).is_dir() or (is_pattern(str(source)) and not Path(source).is_file()))
    if isinstance(source, torch.Tensor):
        return source.ndim == 3
    return not isinstance(source, list | tuple)


def pictures_of(source: Source) -> list[Given]:
    """The pictures of `source`, which may be

    - the path of a file or folder, or a pattern as `'shots/**/*.jpg'`;
    - a PIL picture, taken as its pixels stand (an orientation in EXIF is not applied);
    - a NumPy array (H, W, 3), (H, W, 1) or (H, W), uint8, RGB, not OpenCV's BGR;
    - a tensor (3, H, W) or (B, 3, H, W), RGB, uint8 or floating point of 0..1;
    - a list or tuple of any of these.

    Raises:
        InputError: it is none of them; a file or folder is not there.
    """
    if isinstance(source, list | tuple):
        return [given for one in source for given in pictures_of(one)]
    if isinstance(source, str | Path):
        return [Given(str(file.path)) for file in find_files([source])]
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or "a PIL picture"
        return [Given(name, np.asarray(source.convert("RGB")))]
    if isinstance(source, np.ndarray):
        return [Given("an array", _rgb(source))]
    if isinstance(source, torch.Tensor):
        return [Given("a tensor", _of_tensor(one)) for one in (source if source.ndim == 4 else [source])]
    raise InputError(
        f"a picture is given as {type(source).__name__}; expected a path, folder, pattern, PIL picture, NumPy array "
        "(H, W, 3) in RGB, tensor (3, H, W), or a list of them"
    )


def _rgb(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3) or not array.size:
        raise InputError(f"a picture is an array of shape {array.shape}; expected (H, W, 3) in RGB, or (H, W)")
    if array.dtype != np.uint8:
        raise InputError(f"a picture is an array of {array.dtype}; expected uint8, 0..255, in RGB")
    return np.ascontiguousarray(array.repeat(3, axis=2) if array.shape[2] == 1 else array)


def _of_tensor(tensor: torch.Tensor) -> np.ndarray:
    if tensor.ndim != 3 or tensor.shape[0] != 3 or not tensor.numel():
        raise InputError(f"a picture is a tensor of shape {tuple(tensor.shape)}; expected (3, H, W) or (B, 3, H, W)")
    if tensor.is_floating_point():
        low, high = float(tensor.min()), float(tensor.max())
        if not (0 <= low and high <= 1):
            raise InputError(
                f"a picture is a tensor of {low:.4g}..{high:.4g}; expected floating point of 0..1, or uint8 of 0..255: "
                "the model normalises"
            )
        tensor = (tensor.float() * 255).round()
    elif tensor.dtype != torch.uint8:
        raise InputError(f"a picture is a tensor of {tensor.dtype}; expected uint8, or floating point of 0..1")
    return tensor.to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()


def names_below(files: Sequence[Found], suffix: str = ".png", taken: Sequence[str] = ()) -> dict[Path, str]:
    """File: name of what is made of it below a folder, with `suffix` (a video keeps `.mp4`), each another one."""
    names: dict[Path, str] = {}
    used = set(taken)
    for path, relative in files:
        ending = ".mp4" if path.suffix.lower() in VIDEOS else suffix
        stem, count = re.sub(r"\.\.(/|$)", "", relative.with_suffix("").as_posix()), 1
        name = f"{stem}{ending}"
        while name in used:  # a.jpg beside a.png, or the same name from two folders
            count += 1
            name = f"{stem}_{count}{ending}"
        used.add(name)
        names[path] = name
    return names
