"""Checks the data that a config names before anything is built: files, pictures, classes, heads.

mmdet and mmseg find most of these mistakes late or never: a class name that the annotation file does not know trains
to 0 mAP in silence; a damaged picture stops a run in its third hour.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ..errors import InputError
from .check_coco import check_coco, check_evaluated
from .check_data import Data, Report
from .check_files import MAY_BREAK, Place, check_pictures, is_remote, need_file, need_folder, some
from .check_heads import check_heads
from .check_labels import check_segmentation
from .image_folder import SUFFIXES, ImageFolder, match_folders, pictures_of, read_classes


def check_inputs(cfg: Config, splits: Sequence[str] = ("train", "val", "test")) -> dict[str, Report]:
    """Look for mistakes in the data of a config, in at most a few seconds for small data.

    COCO instances (`CocoDataset`), pictures with label images (`BaseSegDataset` and its children) and class folders
    (`ImageFolder`) are looked into; of mmengine's other data sets the files that the config names, of unknown types
    and remote paths nothing. Wrappers are looked through. The annotation file is read whole; pictures and label
    images are decoded for some seconds, in random order, and a note says so if that was not enough for all.

    Args:
        cfg: with `model`, and `<split>_dataloader`, `<split>_evaluator` of the splits.
        splits: a split without a dataloader is passed over.

    Returns:
        Split -> `Report`, for splits that were looked into.

    Raises:
        InputError: data is missing, damaged, of another format, or has other classes than the model's heads.
    """
    reports, mistakes = find_mistakes(cfg, splits)
    if mistakes:
        raise InputError(mistakes[0])
    return reports


def find_mistakes(cfg: Config, splits: Sequence[str] = ("train", "val", "test")) -> tuple[dict[str, Report], list[str]]:
    """As `check_inputs`, with the mistakes found, the first of each data set and evaluator, in place of an error."""
    reports: dict[str, Report] = {}
    mistakes: list[str] = []
    done: list[tuple[Mapping, Report | None]] = []
    for split in splits:
        loader = cfg.get(f"{split}_dataloader")
        config = loader.get("dataset") if isinstance(loader, Mapping) else None
        if not isinstance(config, Mapping):
            continue
        sets = list(data_sets(config, f"{split}_dataloader.dataset", cfg))
        seen = [report for other, report in done if other == config]
        if not seen:
            before = len(mistakes)
            replaced = (cfg.get("bad_samples") or {}) if split == "train" else {}
            allowed = MAY_BREAK.set(replaced.get("allowed", 0) if isinstance(replaced, Mapping) else 0)
            found = [part for data in sets if (part := _noting(mistakes, _check, data, cfg.get("model"))) is not None]
            MAY_BREAK.reset(allowed)
            seen = [_join(found) if found and len(mistakes) == before else None]
            done.append((config, seen[0]))
        if seen[0] is not None:
            reports[split] = seen[0]
        if split != "train":
            _noting(mistakes, _check_evaluators, cfg, split, sets)
    folders = [report for report in reports.values() if report["unit"] == "pictures"]
    for first, second in zip(folders, folders[1:], strict=False):
        _noting(mistakes, _same_classes, first, second)
    return reports, list(dict.fromkeys(mistakes))


def _noting(mistakes: list[str], check: Callable[..., Any], *given: Any) -> Any:
    """What `check` gives; None, and its message among the mistakes, if it finds one."""
    try:
        return check(*given)
    except InputError as error:
        mistakes.append(str(error))
        return None


def _same_classes(first: Report, second: Report) -> None:
    """Ask that class folders of two splits give their classes the same numbers.

    Raises:
        InputError: they do not; a number would mean one class in training and another in validation.
    """
    ours, theirs = list(first["classes"]), list(second["classes"])
    if ours == theirs:
        return
    missing, added = [n for n in ours if n not in theirs], [n for n in theirs if n not in ours]
    parts = [f"no folder for {some(missing)}"] * bool(missing) + [f"only there: {some(added)}"] * bool(added)
    raise InputError(
        f"{second['where']}: other classes than {first['where']}: {'; '.join(parts) or 'another order'}; their numbers "
        "would differ: give both the same folders (an empty one for a class without pictures) or the same `classes`"
    )


def data_sets(config: Mapping, key: str, cfg: Config) -> Iterator[Data]:
    """The data sets inside of wrappers; types that no registry knows are left out."""
    if isinstance(config.get("dataset"), Mapping):
        yield from data_sets(config["dataset"], f"{key}.dataset", cfg)
    elif isinstance(config.get("datasets"), Sequence):
        for i, part in enumerate(config["datasets"]):
            if isinstance(part, Mapping):
                yield from data_sets(part, f"{key}.datasets.{i}", cfg)
    elif (cls := _class_of(config.get("type"), cfg.get("default_scope"))) is not None:
        yield Data(key, config, cls)


def _class_of(kind: object, default_scope: str | None) -> type | None:
    if isinstance(kind, type):
        return kind
    if not isinstance(kind, str):
        return None
    scope = kind.split(".")[0] if kind.count(".") == 1 else default_scope
    with DATASETS.switch_scope_and_registry(scope or "mmengine") as registry:
        try:
            found = registry.get(kind)
        except (RuntimeError, ImportError):  # mmengine takes unknown names for paths to import
            return None
    return found if isinstance(found, type) else None


def _join(parts: Sequence[Report]) -> Report:
    """One report of concatenated data sets."""
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part["classes"])
    notes = [note for part in parts for note in part["notes"]]
    return Report(
        where=", ".join(part["where"] for part in parts),
        pictures=sum(part["pictures"] for part in parts),
        unit=parts[0]["unit"],
        classes=dict(counts),
        notes=notes,
    )


def _check(data: Data, model: Mapping | None) -> Report | None:
    """Check by kind: what a class loads is known if it does not override the loading of the base that is known."""
    if _is_elsewhere(data):
        return None
    if issubclass(data.cls, ImageFolder):
        return _check_folders(data, model)
    if not issubclass(data.cls, BaseDataset):
        return None
    if data.config.get("data_root"):
        need_folder(Place(data.config["data_root"], f"{data.key}.data_root"), "data folder")
    if _is_coco(data):
        return check_coco(data, model)
    if _loads_like(data.cls, "BaseSegDataset", "load_data_list"):
        return check_segmentation(data, model)
    if (place := data.place("ann_file")) is not None and data.default("ann_file"):
        need_file(place) if not os.path.isdir(place.path) else None
    data.check_heads(model)
    return None


def _is_elsewhere(data: Data) -> bool:
    """Whether a part of the data is not in local files."""
    backend = data.config.get("backend_args") or {}
    prefixes = data.default("data_prefix") or {}
    paths = list(prefixes.values()) if isinstance(prefixes, Mapping) else [prefixes]
    paths += [data.config.get("data_root"), data.default("ann_file")]
    return backend.get("backend", "local") != "local" or is_remote(*(path for path in paths if isinstance(path, str)))


def _is_coco(data: Data) -> bool:
    return _loads_like(data.cls, "CocoDataset", "load_data_list", "parse_data_info")


def _loads_like(cls: type, base: str, *methods: str) -> bool:
    """Whether `cls` is mmdet's or mmseg's `base`, or inherits these methods from it unchanged."""
    known = next((c for c in cls.__mro__ if c.__name__ == base and c.__module__.startswith(("mmdet.", "mmseg."))), None)
    return known is not None and all(getattr(cls, method) is getattr(known, method) for method in methods)


def _check_folders(data: Data, model: Mapping | None) -> Report:
    place = data.place("data_prefix", "img_path") or Place(data.config.get("data_root") or "", f"{data.key}.data_root")
    need_folder(place, "data folder")
    given = data.config.get("classes") or (data.config.get("metainfo") or {}).get("classes")
    names = match_folders(place.path, None if given is None else read_classes(given))
    suffixes = tuple(data.config.get("suffixes", SUFFIXES))
    folders = {name: pictures_of(os.path.join(place.path, name), suffixes) for name in names}
    files = [path for paths in folders.values() for path in paths]
    if not files:
        raise InputError(f"{place.path}: no pictures in its class folders; looked for {', '.join(suffixes)}")
    check_heads(model, names, None, f"{place.path} (its class folders)")
    notes = []
    if empty := [name for name, paths in folders.items() if not paths]:
        notes.append(f"classes without a picture: {some(empty, 10)}")
    if note := check_pictures(files):
        notes.append(f"pictures: {note}")
    counts = {name: len(paths) for name, paths in folders.items()}
    return Report(where=place.path, pictures=len(files), unit="pictures", classes=counts, notes=notes)


def _check_evaluators(cfg: Config, split: str, sets: Sequence[Data]) -> None:
    """Ask that annotation files of evaluators exist, and that `CocoMetric`'s goes with the data.

    Raises:
        InputError: one does not.
    """
    evaluator = cfg.get(f"{split}_evaluator")
    several = isinstance(evaluator, Sequence)
    for i, metric in enumerate(evaluator if several else [evaluator]):
        path = metric.get("ann_file") if isinstance(metric, Mapping) else None
        if isinstance(path, str) and not is_remote(path):
            key = f"{split}_evaluator.{i}.ann_file" if several else f"{split}_evaluator.ann_file"
            need_file(Place(path, key))
            if str(metric.get("type")).split(".")[-1] == "CocoMetric" and len(sets) == 1:
                if _is_coco(sets[0]) and not _is_elsewhere(sets[0]):
                    check_evaluated(Place(path, key), sets[0])
