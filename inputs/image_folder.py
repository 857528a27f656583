"""ImageNet's layout: a folder a class, pictures in it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..registry import DATASETS
from .check_files import some
from .class_pictures import ClassPictures

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


def class_folders(root: str | os.PathLike) -> list[str]:
    """Names of the folders in `root`, sorted as text: '10' comes before '2', as in torchvision and timm.

    Raises:
        InputError: there is no such folder, or no folder in it.
    """
    if not os.path.isdir(root):
        raise InputError(f"{root}: no such folder; it should hold a folder of pictures for each class")
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    if not names:
        raise InputError(f"{root}: no folders in it; it should hold a folder of pictures for each class")
    return names


def read_classes(classes: str | os.PathLike | Sequence[str]) -> tuple[str, ...]:
    """Class names given as a list, or as a text file with one a line.

    Raises:
        InputError: there is no such file; a name is given twice; there is none.
    """
    where = "classes"
    if isinstance(classes, str | os.PathLike):
        where = str(classes)
        if not os.path.isfile(classes):
            raise InputError(f"{classes}: no such file; give `classes` a list of names, or a file with one a line")
        lines = Path(classes).read_text(encoding="utf-8").splitlines()
        classes = [line.strip() for line in lines if line.strip()]
    names = tuple(str(name) for name in classes)
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{where}: class {twice[0]!r} is given more than once; each class has one place in the list")
    if not names:
        raise InputError(f"{where}: no class names in it; leave `classes` out to take the names of the folders")
    return names


def pictures_of(folder: str | os.PathLike, suffixes: Sequence[str] = SUFFIXES) -> list[str]:
    """Paths of the pictures in `folder` and below it, sorted."""
    return sorted(
        os.path.join(where, name)
        for where, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(tuple(suffixes)) and not name.startswith(".")
    )


def match_folders(root: str | os.PathLike, classes: Sequence[str] | None) -> tuple[str, ...]:
    """The classes of `root`: its folders, or `classes` if these are the folders.

    Raises:
        InputError: folders and `classes` differ.
    """
    folders = class_folders(root)
    if classes is None:
        return tuple(folders)
    missing = [name for name in classes if name not in folders]
    others = [name for name in folders if name not in classes]
    if missing or others:
        parts = [f"no folder for {some(missing)}"] * bool(missing) + [f"{some(others)} not in classes"] * bool(others)
        raise InputError(
            f"{root}: its folders are not the classes: {'; '.join(parts)}. Give `classes` the names of the folders, "
            "an empty folder for a class without pictures, or leave it out"
        )
    return tuple(classes)


@DATASETS.register_module()
class ImageFolder(ClassPictures):
    """Pictures in class folders, `DATA_ROOT/PREFIX/CLASS/**/*.jpg`; the pipeline starts with `LoadPicture`.

    Args:
        data_root, data_prefix, classes, metainfo, **others: see `ClassPictures`; the prefix is the folder that holds
            the class folders. Without `classes` they are the folders, sorted as text.
        suffixes: of the files that are pictures, in small letters.

    A sample of the list: `img_path`, and `gt_label`, counted from 0. `metainfo['classes']` is a tuple of names.

    Raises:
        InputError: the folder is missing, holds no class folders or no pictures; `classes` are not its folders.
    """

    def __init__(self, *args: Any, suffixes: Sequence[str] = SUFFIXES, **kwargs: Any) -> None:
        self.suffixes = tuple(suffix.lower() for suffix in suffixes)
        super().__init__(*args, **kwargs)

    def find_classes(self, where: str, given: str | Sequence[str] | None) -> tuple[str, ...]:
        """The folders."""
        return match_folders(where, None if given is None else read_classes(given))

    def load_data_list(self) -> list[dict]:
        """All pictures, class after class."""
        root = self.data_prefix["img_path"]
        samples = [
            dict(img_path=path, gt_label=label)
            for label, name in enumerate(self.metainfo["classes"])
            for path in pictures_of(os.path.join(root, name), self.suffixes)
        ]
        if not samples:
            raise InputError(f"{root}: no pictures in its class folders; looked for {', '.join(self.suffixes)}")
        return samples

    def get_cat_ids(self, idx: int) -> list[int]:
        """The class of a sample, as `ClassBalancedDataset` asks for it."""
        return [self.get_data_info(idx)["gt_label"]]
