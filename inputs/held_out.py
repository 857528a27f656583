"""A data set in two parts, one to learn from and one to be judged by, where a person has only one."""

from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS as ANY_DATASETS

from ..errors import InputError
from ..registry import DATASETS

TRIES = 1000  # samples that a pipeline may refuse in turn, as mmengine's data sets have it


@DATASETS.register_module()
class HeldOut:
    """Every n-th sample of a data set, or all the others.

    Samples of class folders stand class by class, so that each class gives its share.

    Args:
        dataset: a data set, or its config; it must not filter, or the parts would differ with the filters.
        every: n.
        held_out: the n-th samples, to be judged by; otherwise the rest.
        lazy_init: leave the reading to `full_init`.

    Raises:
        InputError: n is less than 2; the part is empty.
    """

    def __init__(
        self, dataset: dict | BaseDataset, every: int = 5, held_out: bool = False, lazy_init: bool = False
    ) -> None:
        if every < 2:
            raise InputError(f"HeldOut: every={every} leaves nothing to learn from; set it to 2 or more")
        self.dataset = ANY_DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self.every, self.held_out = every, held_out
        self._metainfo = self.dataset.metainfo
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """Of the data set."""
        return self._metainfo

    def full_init(self) -> None:
        """Read the data set and choose the part."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        every = range(len(self.dataset))
        self._indices = [index for index in every if (index % self.every == self.every - 1) == self.held_out]
        if not self._indices:
            raise InputError(
                f"HeldOut: {len(self.dataset)} samples, of which every {self.every}th is held out, leave none here; "
                "give validation data of their own"
            )
        self._fully_initialized = True

    def get_data_info(self, index: int) -> dict:
        """Of a sample, as the data set has it."""
        return self.dataset.get_data_info(self._indices[index])

    def get_cat_ids(self, index: int) -> list[int]:
        """Classes of a sample."""
        return self.dataset.get_cat_ids(self._indices[index])

    def __getitem__(self, index: int) -> Any:
        self.full_init()
        for _ in range(TRIES):  # not by the data set's own retries, which would go to the other part, too
            sample = self.dataset.prepare_data(self._indices[index])
            if sample is not None:
                return sample
            index = np.random.randint(len(self))
        raise InputError(
            f"HeldOut: the pipeline gave nothing for {TRIES} samples in turn; look at its crops and filters"
        )

    def __len__(self) -> int:
        self.full_init()
        return len(self._indices)
