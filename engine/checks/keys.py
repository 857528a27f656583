"""Keys of a config against the classes that will receive them: no name is passed over in silence.

mmengine looks up the top-level entries that it knows and ignores the others; heads look up what they want in their
`train_cfg` and `test_cfg`; a constructor with `**kwargs` may take anything. A slip then trains with the default.
"""

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import mmcv.ops
import torch
from mmengine import registry as root
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner, set_random_seed
from torch.utils.data import DataLoader

from ..launch import unknown_type
from .known import known
from .signatures import accepted, wrong_kind

ALWAYS = {"type", "_scope_"}
OLD = {  # of mmdet 2 and mmseg 0, which mmengine does not read
    "data": "train_dataloader, val_dataloader and test_dataloader",
    "evaluation": "val_evaluator, and train_cfg.val_interval",
    "lr_config": "param_scheduler",
    "optimizer_config": "optim_wrapper.clip_grad",
    "runner": "train_cfg",
    "checkpoint_config": "default_hooks.checkpoint",
    "log_config": "default_hooks.logger",
    "total_epochs": "train_cfg.max_epochs",
    "workflow": "train_cfg",
}
# Beside the arguments of Runner: read from the config by Runner's methods, by our tools, by mmdet's and mmseg's.
TOP = {"auto_scale_lr", "custom_imports", "find_unused_parameters", "model_wrapper_cfg", "sync_bn", "compile"} | {
    *("activation_checkpointing", "efficient_conv_bn_eval", "runner_type", "strategy", "load_partial", "min_loaded"),
    *("tta_model", "tta_pipeline", "parallel", "amp", "channels_last", "ema", "nonfinite"),
}
ENTRIES = {  # of plain dicts that mmengine reads by name
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    "env_cfg.mp_cfg": {"mp_start_method", "opencv_num_threads"},
    "auto_scale_lr": {"enable", "base_batch_size"},
    "randomness": set(inspect.signature(set_random_seed).parameters),
}
MODEL_KINDS = ("MODELS", "TASK_UTILS")
KINDS = {  # of the dicts below an entry of that name, in the order in which they are asked
    "model": MODEL_KINDS,
    "tta_model": ("MODELS",),
    "data_preprocessor": ("MODELS",),
    "dataset": ("DATASETS",),
    "datasets": ("DATASETS",),
    "pipeline": ("TRANSFORMS",),
    "transforms": ("TRANSFORMS",),
    "sampler": ("DATA_SAMPLERS", "TASK_UTILS"),
    "batch_sampler": ("DATA_SAMPLERS",),
    "collate_fn": ("FUNCTIONS",),
    "optim_wrapper": ("OPTIM_WRAPPERS",),
    "optimizer": ("OPTIMIZERS",),
    "param_scheduler": ("PARAM_SCHEDULERS",),
    "default_hooks": ("HOOKS",),
    "custom_hooks": ("HOOKS",),
    "train_cfg": ("LOOPS",),
    "val_cfg": ("LOOPS",),
    "test_cfg": ("LOOPS",),
    "val_evaluator": ("METRICS", "EVALUATOR"),
    "test_evaluator": ("METRICS", "EVALUATOR"),
    "visualizer": ("VISUALIZERS",),
    "vis_backends": ("VISBACKENDS",),
    "log_processor": ("LOG_PROCESSORS",),
    "model_wrapper_cfg": ("MODEL_WRAPPERS",),
    "init_cfg": ("WEIGHT_INITIALIZERS",),
    "tta_pipeline": ("TRANSFORMS",),
}
DEFAULT_TYPES = {"optim_wrapper": "OptimWrapper", "log_processor": "LogProcessor", "val_cfg": "ValLoop"} | {
    "test_cfg": "TestLoop"
}
GIVEN_BY_MMENGINE = {"LOOPS": {"runner", "dataloader"}, "PARAM_SCHEDULERS": {"optimizer"}, "OPTIMIZERS": {"params"}}
TAKEN_BEFORE = {  # keys that a builder takes out before it calls the class
    "PARAM_SCHEDULERS": {"convert_to_iter_based"},
    "OPTIM_WRAPPERS": {"optimizer", "constructor", "paramwise_cfg"},
    "WEIGHT_INITIALIZERS": {"override", "strict", "min_loaded"},
    "HOOKS": {"priority"},
}
# Layers' dicts, which mmcv's builders and mmdet's heads complete and rename before the class sees them.
LAYERS = ("conv_cfg", "act_cfg", "upsample_cfg", "dcn", "nms", "roi_layer", "iou_calculator")
CUTOFF = 0.8  # of difflib: 'wieght_decay' is near 'weight_decay', 'max_iter' and 'max_epochs' are not


def near(name: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """` (did you mean 'x'?)`, or nothing."""
    found = difflib.get_close_matches(name, sorted(names), n=1, cutoff=cutoff)
    return f" (did you mean {found[0]!r}?)" if found else ""


def check_keys(cfg: Config) -> list[str]:
    """Mistakes in the keys of a config, each in a line that names the key and what to write."""
    walk = _Walk(cfg.get("default_scope") or "mmengine")
    walk.top(cfg)
    return walk.mistakes


class _Walk:
    """Goes through a config and notes mistakes."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.mistakes: list[str] = []

    def top(self, cfg: Mapping) -> None:
        """Entries at the top: those that somebody reads are looked into; others are a person's variables."""
        read = set(inspect.signature(Runner.__init__).parameters) - {"self", "cfg"} | TOP
        for name in cfg:
            if name in OLD and _is_old(cfg[name], name):
                self.mistakes.append(f"{name}: nobody reads it since mmengine; set {OLD[name]}")
            elif name == "_delete_":
                self._left_over("config")
            elif name not in read and name not in known().top and (hint := near(name, read, CUTOFF)):
                self.mistakes.append(f"{name}: mmengine has no such entry and would pass over it{hint}")
        if cfg.get("optimizer") is not None and cfg.get("optim_wrapper") is None:
            self.mistakes.append("optimizer: nobody reads it since mmengine; set optim_wrapper=dict(optimizer=...)")
        for name, value in cfg.items():
            if name.endswith("_dataloader") and name in read:
                self._dataloader(value, name)
            elif name in ENTRIES:
                self._entries(value, name)
            elif name in KINDS and name in read:
                self._entry(value, name)

    def _entry(self, value: Any, name: str) -> None:
        if name == "default_hooks":
            self._default_hooks(value)
        elif isinstance(value, Mapping) and "type" not in value and name in (*DEFAULT_TYPES, "train_cfg"):
            kind = (
                DEFAULT_TYPES.get(name) or ("EpochBased" if value.get("by_epoch", True) else "IterBased") + "TrainLoop"
            )
            extra = {"by_epoch"} if name == "train_cfg" else set()
            self._typed({**value, "type": kind}, name, KINDS[name], extra)
        else:
            self.part(value, name, KINDS[name])
        if name == "optim_wrapper" and isinstance(value, Mapping):
            self._optim_wrapper(value)

    def part(self, value: Any, key: str, kinds: tuple[str, ...]) -> None:
        """A dict below `key`, or each of a list of them."""
        if isinstance(value, list | tuple):
            for index, one in enumerate(value):
                self.part(one, f"{key}.{index}", kinds)
        elif isinstance(value, Mapping):
            if "_delete_" in value:
                self._left_over(key)
            if "type" in value:
                self._typed(value, key, kinds)
            else:
                self._untyped(value, key, kinds)

    def _left_over(self, key: str) -> None:
        self.mistakes.append(f"{key}: has a _delete_, and no base has anything there to replace: take it out")

    def _typed(self, value: Mapping, key: str, kinds: tuple[str, ...], extra: Iterable[str] = ()) -> None:
        receiver, kind = self._find(value["type"], key, kinds)
        if receiver is not None:
            extra = {*extra, *ALWAYS, *TAKEN_BEFORE.get(kind, ())}
            if key.rsplit(".", 1)[-1].endswith("norm_cfg"):
                extra.add("requires_grad")  # mmcv's builder takes it
            self._against(value, key, receiver, extra, kind)
        for name, child in value.items():
            if name == "transforms" and not _holds_transforms(receiver):
                continue
            below = KINDS[name] if name in KINDS and not (kind in MODEL_KINDS and name != "init_cfg") else kinds
            self.part(child, f"{key}.{name}", below)

    def _against(self, value: Mapping, key: str, receiver: Callable, extra: set[str], kind: str) -> None:
        """Names and kinds of values of a dict against its receiver."""
        parameters, is_open = accepted(receiver)
        is_open = is_open or key.rsplit(".", 1)[-1] in LAYERS
        names = {name for name in parameters if name not in GIVEN_BY_MMENGINE.get(kind, ())}
        for name, child in value.items():
            if name == "_delete_" or name in extra:
                continue
            if name in parameters:
                if (wanted := wrong_kind(child, receiver, parameters[name])) is not None:
                    self.mistakes.append(f"{key}.{name}: {child!r} for {_who(receiver)}, which wants {wanted} there")
            elif not is_open and not (kind in MODEL_KINDS and name in known().taken):
                takes = near(name, names) or f"; it takes {', '.join(sorted(names)) or 'nothing'}"
                self.mistakes.append(f"{key}.{name}: {_who(receiver)} takes no {name!r}{takes}")
            elif (hint := near(name, names, CUTOFF)) and not _said_elsewhere(name, key):
                self.mistakes.append(f"{key}.{name}: {_who(receiver)} has no {name!r} and would pass over it{hint}")

    def _untyped(self, value: Mapping, key: str, kinds: tuple[str, ...]) -> None:
        """A plain dict: its keys against those that configs have, or code reads, under this name."""
        name = re.sub(r"\.\d+$", "", key).rsplit(".", 1)[-1]
        if name in ("train_cfg", "test_cfg", "rpn", "rpn_proposal", "rcnn") and kinds[0] == "MODELS":
            names = known().inside[name]
            for child in value:
                if child not in names | known().read | {"_delete_"}:
                    hint = near(child, names | (known().read & known().inside["test_cfg"]))
                    self.mistakes.append(f"{key}.{child}: nothing in mmdet or mmseg reads {child!r}{hint}: correct it")
        for child, part in value.items():
            below = KINDS[child] if child in KINDS and kinds[0] != "MODELS" else kinds
            self.part(part, f"{key}.{child}", KINDS["init_cfg"] if child == "init_cfg" else below)

    def _find(self, kind: Any, key: str, kinds: tuple[str, ...]) -> tuple[Callable | None, str]:
        """What `type` names, and the name of the registry that has it; unknown ones are noted."""
        if callable(kind):
            return kind, kinds[0]
        if not isinstance(kind, str):
            return None, kinds[0]
        for name in kinds:
            if (found := registered(getattr(root, name), kind, self.scope)) is not None:
                return found, name
        if callable(found := getattr(mmcv.ops, kind, None)):  # RoIAlign, nms
            return found, kinds[0]
        if kind not in known().types:
            self.mistakes.append(f"{key}.type: {unknown_type(kind, self.scope, getattr(root, kinds[0]).name)}")
        return None, kinds[0]

    def _dataloader(self, value: Any, key: str) -> None:
        for name, loader in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(loader, Mapping):
                continue
            where = key if name is None else f"{key}.{name}"
            names = set(inspect.signature(DataLoader.__init__).parameters) - {"self"} | {"num_batch_per_epoch"}
            for child, part in loader.items():
                if child == "_delete_":
                    self._left_over(where)
                elif child not in names:
                    self.mistakes.append(f"{where}.{child}: a dataloader takes no {child!r}{near(child, names)}")
                elif child in KINDS:
                    self.part(part, f"{where}.{child}", KINDS[child][:1])
                elif child in ("batch_size", "num_workers", "persistent_workers", "drop_last", "pin_memory"):
                    if isinstance(part, str) or (child in ("batch_size", "num_workers") and part is None):
                        self.mistakes.append(f"{where}.{child}: {part!r}; it wants a number, or true or false")

    def _entries(self, value: Any, key: str) -> None:
        if not isinstance(value, Mapping):
            return
        for name, child in value.items():
            if name not in ENTRIES[key]:
                takes = near(name, ENTRIES[key]) or f"; it has {', '.join(sorted(ENTRIES[key]))}"
                self.mistakes.append(f"{key}.{name}: mmengine reads no {name!r} there{takes}")
            if f"{key}.{name}" in ENTRIES:
                self._entries(child, f"{key}.{name}")

    def _default_hooks(self, value: Any) -> None:
        names = known().inside["default_hooks"] | {"runtime_info"}
        for name, hook in value.items() if isinstance(value, Mapping) else ():
            if name not in names and (hint := near(name, names, 0.7)):
                self.mistakes.append(f"default_hooks.{name}: no default hook has that name{hint}")
            elif isinstance(hook, Mapping) and "type" not in hook:
                self.mistakes.append(f"default_hooks.{name}: has no type; set default_hooks.{name}.type")
                continue
            self.part(hook, f"default_hooks.{name}", KINDS["default_hooks"])

    def _optim_wrapper(self, value: Mapping) -> None:
        clip = value.get("clip_grad")
        if isinstance(clip, Mapping):
            rule = torch.nn.utils.clip_grad_value_ if clip.get("type") == "value" else torch.nn.utils.clip_grad_norm_
            names = {*inspect.signature(rule).parameters, "type"} - {"parameters"}
            for name in clip:
                if name not in names:
                    takes = near(name, names) or f"; it takes {', '.join(sorted(names))}"
                    self.mistakes.append(f"optim_wrapper.clip_grad.{name}: {rule.__name__} takes no {name!r}{takes}")
        settings = value.get("paramwise_cfg")
        if isinstance(settings, Mapping):
            names = _paramwise_names(value.get("constructor") or "DefaultOptimWrapperConstructor", self.scope)
            for name in settings:
                if name not in names:
                    takes = near(name, names) or f"; it reads {', '.join(sorted(names))}"
                    self.mistakes.append(f"optim_wrapper.paramwise_cfg.{name}: nobody reads {name!r}{takes}")
            for pattern, change in (settings.get("custom_keys") or {}).items():
                for name in change if isinstance(change, Mapping) else ():
                    if name not in ("lr_mult", "decay_mult") and (hint := near(name, ("lr_mult", "decay_mult"), 0.7)):
                        where = f"optim_wrapper.paramwise_cfg.custom_keys[{pattern!r}].{name}"
                        self.mistakes.append(f"{where}: nobody reads {name!r}{hint}")


def registered(registry: Registry, kind: str, scope: str) -> Callable | None:
    asked = kind.split(".")[0] if kind.count(".") == 1 else scope
    with registry.switch_scope_and_registry(asked) as found:
        try:
            return found.get(kind)
        except (RuntimeError, ImportError):  # mmengine takes unknown names for paths to import
            return None


def _paramwise_names(constructor: str, scope: str) -> set[str]:
    """Names that an optimizer's constructor reads from `paramwise_cfg`, as its code and its bases' says."""
    cls = registered(root.OPTIM_WRAPPER_CONSTRUCTORS, constructor, scope)
    names: set[str] = set()
    for part in inspect.getmro(cls) if inspect.isclass(cls) else ():
        if part is not object:
            names |= set(re.findall(r"""paramwise_cfg(?:\.get\(|\.pop\(|\[)\s*['"](\w+)""", inspect.getsource(part)))
    return names


def _is_old(value: Any, name: str) -> bool:
    """Whether an entry is meant for mmdet 2: `data` and `runner` may be variables of a person's."""
    told = dict(data=("samples_per_gpu", "workers_per_gpu", "train"), runner=("max_epochs", "max_iters")).get(name)
    return told is None or (isinstance(value, Mapping) and any(key in value for key in told))


def _said_elsewhere(name: str, key: str) -> bool:
    """Whether configs that ship have that name in an entry called as `key` is."""
    return name in known().inside.get(re.sub(r"\.\d+$", "", key).rsplit(".", 1)[-1], ()) or name in known().read


def _holds_transforms(receiver: Callable | None) -> bool:
    """Whether `transforms` of it are of the registry: Albu's and torchvision's are not."""
    home = getattr(receiver, "__module__", "")
    return home.startswith(("mmcv.", "mmdet.", "mmseg.")) and receiver.__name__ != "Albu"


def _who(receiver: Callable) -> str:
    return getattr(receiver, "__name__", repr(receiver))
