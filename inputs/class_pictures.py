"""What data sets for classifiers share: where pictures lie, and the names of the classes."""

import os
from collections.abc import Sequence
from typing import Any

from mmengine.dataset import BaseDataset


class ClassPictures(BaseDataset):
    """Pictures with classes; a data set fills `find_classes` and `load_data_list`.

    Args:
        data_root: folder that the prefix is relative to.
        data_prefix: of the pictures: 'train', or as mmengine has it, dict(img_path='train').
        classes: names, or a text file with one a line; their order counts. `metainfo=dict(classes=...)` is the same.
        **others: `pipeline`, `test_mode`, `indices`, ...: see `BaseDataset`.
    """

    def __init__(
        self,
        data_root: str = "",
        data_prefix: str | dict = "",
        classes: str | Sequence[str] | None = None,
        metainfo: dict | None = None,
        **others: Any,
    ) -> None:
        metainfo = dict(metainfo or {})
        given = classes if classes is not None else metainfo.pop("classes", None)
        prefix = dict(img_path=data_prefix) if isinstance(data_prefix, str) else dict(data_prefix)
        where = os.path.join(data_root, prefix.get("img_path", ""))
        metainfo["classes"] = self.find_classes(where, given)
        super().__init__(metainfo=metainfo, data_root=data_root, data_prefix=prefix, **others)

    def find_classes(self, where: str, given: str | Sequence[str] | None) -> tuple[str, ...]:
        """Names of the classes; `where` is the prefix below the root, `given` what the config says."""
        raise NotImplementedError(f"{type(self).__name__} does not define find_classes")
