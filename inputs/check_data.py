"""A data set as a config describes it, and what a check of it gives."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from ..errors import InputError
from .check_files import Place
from .check_heads import check_heads


class Report(TypedDict):
    """What was found: where, number of pictures, `unit` of the counts ('objects', 'pixels', 'pictures') a class."""

    where: str
    pictures: int
    unit: str
    classes: dict[str, int]
    notes: list[str]


class Data(NamedTuple):
    """A data set of a config: its dotted key, its entries and its class."""

    key: str
    config: Mapping[str, Any]
    cls: type

    def default(self, name: str) -> Any:
        """The entry of that name, or the default of the constructor."""
        if name in self.config:
            return self.config[name]
        for cls in self.cls.__mro__:
            parameter = inspect.signature(cls.__init__).parameters.get(name) if "__init__" in vars(cls) else None
            if parameter is not None and parameter.default is not parameter.empty:
                return parameter.default
        return None

    def place(self, name: str, part: str | None = None) -> Place | None:
        """Where the data set finds `ann_file`, or the `part` of `data_prefix`; None if the config does not say."""
        value = self.default(name)
        key = f"{self.key}.{name}"
        if part is not None:
            value = value.get(part) if isinstance(value, Mapping) else value
            key = f"{key}.{part}" if isinstance(self.default(name), Mapping) else key
        if not isinstance(value, str):
            return None
        root = self.config.get("data_root") or ""
        path = os.path.join(root, value) if value else root
        return Place(path or ".", f"{self.key}.data_root or {key}" if root else key)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Class names, from `metainfo` or the class of the data set; None if neither has any.

        Raises:
            InputError: one string that is no file, where a list was wanted.
        """
        names = (self.config.get("metainfo") or {}).get("classes", getattr(self.cls, "METAINFO", {}).get("classes"))
        if isinstance(names, str):
            if not os.path.isfile(names):
                raise InputError(
                    f"{self.key}.metainfo.classes is the string {names!r}, and no file of that name is there; write "
                    f"a tuple: classes=({names!r},)"
                )
            return tuple(Path(names).read_text(encoding="utf-8").splitlines())
        return None if names is None else tuple(names)

    @property
    def classes_from(self) -> str:
        """Where the class names come from, in words."""
        if "classes" in (self.config.get("metainfo") or {}):
            return f"{self.key}.metainfo.classes"
        return f"{self.key} ({self.cls.__name__}'s own: no metainfo.classes is set)"

    def check_heads(self, model: Mapping | None) -> None:
        """Ask that the model's heads are for these classes; see `check_heads`."""
        video = any(base.__name__ == "BaseVideoDataset" for base in self.cls.__mro__)
        if self.classes is not None and not video:  # trackers detect one class of many
            meta = {**getattr(self.cls, "METAINFO", {}), **(self.config.get("metainfo") or {})}
            things = meta.get("thing_classes")
            check_heads(model, self.classes, things, self.classes_from)
