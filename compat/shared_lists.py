"""The list of a data set, which mmengine keeps as one array of bytes, in memory that all workers share.

Forked workers share the array as it is. Workers that are started afresh get the data set by pickle, and with it a copy
each: some 300 MB a worker for a million pictures. Here the array lies in shared memory, and what is pickled is where.
"""

import functools
import mmap
import os
import weakref
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import DupFd
from types import ModuleType
from typing import Any

from .imports import after_import, target


@after_import("mmengine.dataset.base_dataset")
def lists_lie_in_shared_memory(module: ModuleType) -> None:
    """All data sets of mmengine, mmdet, mmseg and this package serialise by this method."""
    dataset = target(module, "BaseDataset")
    serialize = target(dataset, "_serialize_data")

    @functools.wraps(serialize)
    def _serialize_data(self):
        return tuple(map(shared, serialize(self)))

    dataset._serialize_data = _serialize_data


SMALLEST = 2**16  # bytes: below, a copy is cheaper than a handle


def shared(array: Any) -> Any:
    """The same array; a process that is started afresh gets a view of its memory in place of a copy."""
    if array.nbytes < SMALLEST or not hasattr(os, "memfd_create"):  # the latter: systems other than Linux
        return array
    handle = os.memfd_create("bestiary-list")  # no file of /dev/shm, whose size is often small in containers
    try:
        os.ftruncate(handle, array.nbytes)
        made = _view(handle, array.dtype.str, array.shape)
    except OSError:
        os.close(handle)
        raise
    made[...] = array
    return made


def _view(handle: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    """The array in a file of memory, given by its number, or as it comes to a new process."""
    import numpy

    handle = handle if isinstance(handle, int) else handle.detach()
    memory = mmap.mmap(handle, int(numpy.prod(shape)) * numpy.dtype(dtype).itemsize)
    made = numpy.frombuffer(memory, dtype).reshape(shape).view(_kind())
    made.handle = handle
    weakref.finalize(memory, os.close, handle)
    return made


@functools.cache
def _kind() -> type:
    import numpy

    class SharedArray(numpy.ndarray):
        """Pickled to a process being started as the number of its file of memory, elsewhere by value."""

        def __reduce__(self):
            handle = getattr(self, "handle", None)  # a part of an array has none
            if handle is None or get_spawning_popen() is None:
                return numpy.asarray(self).__reduce__()
            return _view, (DupFd(handle), self.dtype.str, self.shape)

    return SharedArray
