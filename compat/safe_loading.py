"""No file that a user loads may run code: checkpoints, pickles, YAML, text in checkpoints, strings that are evaluated.

Not closed, for they read only what the same job wrote a moment before: mmengine's exchange of results between ranks,
and the serialised lists of a data set in memory.
"""

import functools
import inspect
import pickle
import re
import zipfile
from types import ModuleType
from typing import Any

from ..errors import InputError
from .imports import after_import, replace, target
from .restricted_pickle import restricted_load, restricted_loads

LARGEST_RATIO = 200  # of an unpacked checkpoint to its archive; weights hardly shrink

# --- checkpoints ------------------------------------------------------------------------------------------------------


@after_import("mmengine.runner.checkpoint", "timm.models._helpers", "timm.task._helpers")
def torch_load_is_weights_only(module: ModuleType) -> None:
    """These call torch.load, whose default an environment variable can switch, or switch it themselves."""
    module.torch = _Torch(target(module, "torch"))


class _Torch(ModuleType):
    """torch, as one module sees it: `load` unpickles weights and plain data, whatever is asked."""

    def __init__(self, torch: ModuleType) -> None:
        super().__init__("torch")
        self.__dict__["_torch"] = torch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._torch, name)

    @property
    def load(self) -> Any:
        return _weights_only(self._torch.load)


def _weights_only(load: Any) -> Any:
    @functools.wraps(load)
    def load_weights_only(file, *args, **kwargs):
        try:
            return load(file, *args, **{**kwargs, "weights_only": True})
        except pickle.UnpicklingError as error:
            found = re.search(r"GLOBAL ([\w.]+)", str(error))
            what = f"the file asks for {found[1]!r}, which no checkpoint of weights needs" if found else str(error)
            raise InputError(f"{file}: {what}: it was not loaded; get it from a source that you trust") from error

    return load_weights_only


@after_import("mmengine.utils.dl_utils.hub")
def addresses_load_weights_only(module: ModuleType) -> None:
    """`load_from='https://...'` and `torchvision://` end in torch's load_url, which unpickles freely by default."""
    replace(module, "load_url", _weights_only(target(module, "load_url")))


@after_import("timm.models._builder", "torchvision._internally_replaced_utils")
def pretrained_loads_weights_only(module: ModuleType) -> None:
    """timm falls back to full unpickling on a TypeError; torchvision leaves it to its callers."""
    module.load_state_dict_from_url = _weights_only(target(module, "load_state_dict_from_url"))


@after_import("torch.hub")
def legacy_archives_are_no_bombs(module: ModuleType) -> None:
    """A fetched checkpoint may be a zip archive of one file, which torch unpacks whatever its size."""
    load = target(module, "_legacy_zip_load")

    @functools.wraps(load)
    def _legacy_zip_load(filename, *args, **kwargs):
        with zipfile.ZipFile(filename) as archive:
            for member in archive.infolist():
                if member.file_size > LARGEST_RATIO * max(member.compress_size, 1):
                    raise InputError(
                        f"{filename}: {member.filename} would unpack from {member.compress_size} bytes to "
                        f"{member.file_size}: no weights shrink so much; it was not unpacked"
                    )
        return load(filename, *args, **kwargs)

    module._legacy_zip_load = _legacy_zip_load


@after_import("mmengine.infer.infer")
def no_config_from_a_checkpoint(module: ModuleType) -> None:
    """An inferencer without config runs the one that it finds in the checkpoint, which is text in Python."""
    inferencer = target(module, "BaseInferencer")
    init_model = target(inferencer, "_init_model")

    @functools.wraps(init_model)
    def _init_model(self, cfg, weights, device="cpu"):
        if not cfg:
            raise InputError(
                f"{weights}: weights without a config: the text of one in a checkpoint is a program and is not run; "
                "give the config, too (an inferencer's `model`)"
            )
        return init_model(self, cfg, weights, device)

    inferencer._init_model = _init_model


# --- other files ------------------------------------------------------------------------------------------------------


@after_import("mmengine.fileio.handlers.yaml_handler")
def yaml_is_data(module: ModuleType) -> None:
    """mmengine's YAML loader makes whatever object a tag names; here the safe one, and tuples, which Config writes."""
    import yaml

    class SafeLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        pass

    def tuple_of(loader, node):
        return tuple(loader.construct_sequence(node, deep=True))

    SafeLoader.add_constructor("tag:yaml.org,2002:python/tuple", tuple_of)
    handler = target(module, "YamlHandler")

    def load_from_fileobj(self, file, **kwargs):
        kwargs.setdefault("Loader", SafeLoader)
        try:
            return yaml.load(file, **kwargs)  # of the loader above
        except yaml.constructor.ConstructorError as error:
            raise InputError(f"YAML with more than plain data: {' '.join(str(error).split())}; write values") from error

    handler.load_from_fileobj = load_from_fileobj


@after_import("mmengine.fileio.handlers.pickle_handler")
def pickles_are_data(module: ModuleType) -> None:
    """`mmengine.load('x.pkl')`, as of annotations, proposals and saved predictions, calls whatever the file says."""

    def load_from_fileobj(self, file, **kwargs):
        return restricted_load(file, **kwargs)

    target(module, "PickleHandler").load_from_fileobj = load_from_fileobj


@after_import("mmengine.fileio.io")
def refused_files_are_named(module: ModuleType) -> None:
    """The handlers get streams, and do not know whose."""
    load = target(module, "load")

    @functools.wraps(load)
    def load_named(file, *args, **kwargs):
        try:
            return load(file, *args, **kwargs)
        except InputError as error:
            raise InputError(f"{file}: {error}") from error

    replace(module, "load", load_named)


@after_import("mmseg.utils.io")
def pictures_in_pickles_are_data(module: ModuleType) -> None:
    """`decode_backend='pickle'` of mmseg's loading steps."""
    read = target(module, "datafrombytes")

    @functools.wraps(read)
    def datafrombytes(content, backend="numpy"):
        return restricted_loads(content) if backend == "pickle" else read(content, backend)

    replace(module, "datafrombytes", datafrombytes)


@after_import("mmdet.datasets.openimages")
def class_trees_are_numbers(module: ModuleType) -> None:
    """OpenImages' hierarchy of classes is read by NumPy with pickles allowed, and is a matrix."""

    class NumpyWithoutPickles(ModuleType):
        def load(self, file, *args, **kwargs):
            try:
                return numpy.load(file, *args, **{**kwargs, "allow_pickle": False})
            except ValueError as error:
                raise InputError(f"{file}: not a matrix of numbers as NumPy saves it: {error}") from error

        def __getattr__(self, name):
            return getattr(numpy, name)

    numpy = target(module, "np")
    module.np = NumpyWithoutPickles("numpy")


# --- strings in configs that are evaluated ----------------------------------------------------------------------------


def _need_name(text: Any, where: str) -> None:
    """Ask that a string which a library evaluates is a name, or names with dots.

    Raises:
        InputError: it is an expression.
    """
    if isinstance(text, str) and not all(part.isidentifier() for part in text.split(".")):
        raise InputError(f"{where}={text!r}: this is evaluated as Python, and only a name will do")


@after_import("mmcv.ops.nms")
def nms_types_are_names(module: ModuleType) -> None:
    """`nms=dict(type=...)` of a head is evaluated when it predicts."""
    batched = target(module, "batched_nms")

    @functools.wraps(batched)
    def batched_nms(boxes, scores, idxs, nms_cfg, *args, **kwargs):
        _need_name((nms_cfg or {}).get("type"), "nms.type")
        return batched(boxes, scores, idxs, nms_cfg, *args, **kwargs)

    replace(module, "batched_nms", batched_nms)


@after_import("mmcv.cnn.rfsearch.search")
def searched_types_are_names(module: ModuleType) -> None:
    """`search_op` of RFSearchHook."""
    hook = target(module, "RFSearchHook")
    for name in ("wrap_model", "set_model"):
        method = target(hook, name)
        setattr(hook, name, _with_name(method, "search_op", "RFSearchHook: search_op"))


@after_import("mmdet.models.task_modules.tracking.camera_motion_compensation")
def warp_modes_are_names(module: ModuleType) -> None:
    """`warp_mode` of CameraMotionCompensation."""
    part = target(module, "CameraMotionCompensation")
    part.__init__ = _with_name(part.__init__, "warp_mode", "CameraMotionCompensation: warp_mode")


def _with_name(method: Any, argument: str, where: str) -> Any:
    signature = inspect.signature(method)

    @functools.wraps(method)
    def checked(*args, **kwargs):
        _need_name(signature.bind(*args, **kwargs).arguments.get(argument), where)
        return method(*args, **kwargs)

    return checked
