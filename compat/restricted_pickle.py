"""An unpickler for files of numbers: it makes plain data, arrays, tensors and OpenMMLab's structures, and calls nothing
else. A pickle is a program; which functions it may call is decided in `find_class`."""

import importlib
import io
import pickle
import re
from typing import Any

from ..errors import InputError

PLAIN = {  # module: names that it may ask for; Python 2's names of the modules too
    "builtins": {"set", "frozenset", "complex", "bytearray", "slice", "range", "int", "float", "bool", "str", "bytes"}
    | {"list", "tuple", "dict", "object"},
    "__builtin__": {"set", "frozenset", "complex", "bytearray", "slice", "xrange", "object"},
    "collections": {"OrderedDict", "defaultdict", "deque", "Counter"},
    "copyreg": {"_reconstructor"},
    "copy_reg": {"_reconstructor"},
    "_codecs": {"encode"},  # bytes in protocol 2
    "numpy": {"ndarray", "dtype"},
    "torch": {"Size", "device", "Tensor"},
    "torch._utils": {"_rebuild_tensor_v2", "_rebuild_parameter"},
    "torch.nn.parameter": {"Parameter"},
    "mmengine.logging.history_buffer": {"HistoryBuffer"},
    "bestiary.inputs.class_sample": {"ClassSample"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
}
STRUCTURES = ("mmengine.structures.", "mmdet.structures.", "mmseg.structures.")  # classes, and no function, of these


class RestrictedUnpickler(pickle.Unpickler):
    """Reads a pickle of plain data.

    Builtin containers and numbers, NumPy's arrays, torch's tensors and parameters, and the structures of mmengine,
    mmdet, mmseg and this package (`InstanceData`, `DetDataSample`, `BitmapMasks`, ...) are made; `--out` of
    `bestiary test` and mmengine's DumpResults write no more.

    Raises:
        InputError: the pickle asks for anything else.
    """

    def find_class(self, module: str, name: str) -> Any:
        """The class or function that a pickle names."""
        module = re.sub(r"^numpy\.core\b", "numpy._core", module)  # as NumPy 1 called it
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return _storage_from_bytes
        if name in PLAIN.get(module, ()):
            return super().find_class(module, name)
        if module in ("torch", "numpy.dtypes"):
            found = getattr(importlib.import_module(module), name, None)
            if _is_dtype(found):
                return found
        if module.startswith(STRUCTURES) and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__.startswith(STRUCTURES):
                return found
        raise InputError(
            f"the pickle asks for {module}.{name}, which no file of results or annotations needs, and which could run "
            "any code: it was not loaded; get the file from a source that you trust, as JSON if you can"
        )


def _storage_from_bytes(content: bytes) -> Any:
    """A tensor's numbers, in a pickle inside of the pickle, which torch would read freely."""
    import torch

    return torch.load(io.BytesIO(content), weights_only=True)


def _is_dtype(found: Any) -> bool:
    import numpy
    import torch

    numpys = isinstance(found, type) and issubclass(found, numpy.dtype) and found is not numpy.dtypes.ObjectDType
    # Storage classes, which torch pickles beside the numbers of a tensor.
    storages = found in (torch.storage.UntypedStorage, torch.storage.TypedStorage, torch.FloatStorage)
    return isinstance(found, torch.dtype) or numpys or storages


def restricted_load(file: Any, **kwargs: Any) -> Any:
    """As `pickle.load`, by `RestrictedUnpickler`.

    Raises:
        InputError: what it asks for is not allowed; it is no pickle, or one that was cut off.
    """
    try:
        return RestrictedUnpickler(file, **kwargs).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle is a damaged program and may raise anything
        raise InputError(f"not a pickle of plain data, or one that was cut off: {error}") from error


def restricted_loads(content: bytes) -> Any:
    """As `pickle.loads`; see `restricted_load`."""
    return restricted_load(io.BytesIO(content))
