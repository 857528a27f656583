"""Checks the data that a config names before anything is built: files, pictures, classes, heads.

mmdet and mmseg find most of these mistakes late or never: a class name that the annotation file does not know trains
to 0 mAP in silence; a damaged picture stops a run in its third hour.
"""

import inspect
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS

from ..errors import InputError
from .check_files import (
    Place,
    absent,
    check_pictures,
    is_remote,
    look_at,
    need_file,
    need_folder,
    read_json,
    read_labels,
    some,
)
from .check_heads import check_heads
from .image_folder import SUFFIXES, ImageFolder, match_folders, pictures_of, read_classes


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
        return Place(os.path.join(root, value) if root else value, f"{self.key}.data_root or {key}" if root else key)

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
            return tuple(Path(names).read_text(encoding="utf-8").split("\n"))
        return None if names is None else tuple(names)

    @property
    def classes_from(self) -> str:
        """Where the class names come from, in words."""
        if "classes" in (self.config.get("metainfo") or {}):
            return f"{self.key}.metainfo.classes"
        return f"{self.key} ({self.cls.__name__}'s own: no metainfo.classes is set)"


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
    reports: dict[str, Report] = {}
    done: list[tuple[Mapping, Report]] = []
    for split in splits:
        config = (cfg.get(f"{split}_dataloader") or {}).get("dataset")
        if isinstance(config, Mapping):
            same = next((report for seen, report in done if seen == config), None)
            parts = [] if same else [_check(data, cfg) for data in _unwrap(config, f"{split}_dataloader.dataset", cfg)]
            found = [part for part in parts if part is not None]
            if same or found:
                reports[split] = same or _join(found)
                done.append((config, reports[split]))
        if split != "train":
            _check_evaluators(cfg, split)
    return reports


def _unwrap(config: Mapping, key: str, cfg: Config) -> Iterator[Data]:
    """The data sets inside of wrappers; types that no registry knows are left out."""
    if isinstance(config.get("dataset"), Mapping):
        yield from _unwrap(config["dataset"], f"{key}.dataset", cfg)
    elif isinstance(config.get("datasets"), Sequence):
        for i, part in enumerate(config["datasets"]):
            if isinstance(part, Mapping):
                yield from _unwrap(part, f"{key}.datasets.{i}", cfg)
    elif (cls := _class_of(config.get("type"), cfg.get("default_scope"))) is not None:
        yield Data(key, config, cls)


def _class_of(kind: object, default_scope: str | None) -> type | None:
    if isinstance(kind, type):
        return kind
    if not isinstance(kind, str):
        return None
    scope = kind.split(".")[0] if kind.count(".") == 1 else default_scope
    with DATASETS.switch_scope_and_registry(scope or "mmengine") as registry:
        found = registry.get(kind)
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


def _check(data: Data, cfg: Config) -> Report | None:
    """Check by kind: what a class loads is known if it does not override the loading of the base that is known."""
    backend = data.config.get("backend_args") or {}
    prefixes = data.default("data_prefix") or {}
    paths = list(prefixes.values()) if isinstance(prefixes, Mapping) else [prefixes]
    if backend.get("backend", "local") != "local" or is_remote(
        data.config.get("data_root"), data.default("ann_file"), *(path for path in paths if isinstance(path, str))
    ):
        return None
    if issubclass(data.cls, ImageFolder):
        return _check_folders(data, cfg)
    if not issubclass(data.cls, BaseDataset):
        return None
    if data.config.get("data_root"):
        need_folder(Place(data.config["data_root"], f"{data.key}.data_root"), "data folder")
    if _loads_like(data.cls, "CocoDataset", "load_data_list", "parse_data_info"):
        return _check_coco(data, cfg)
    if _loads_like(data.cls, "BaseSegDataset", "load_data_list"):
        return _check_segmentation(data, cfg)
    if (place := data.place("ann_file")) is not None and data.default("ann_file"):
        need_file(place) if not os.path.isdir(place.path) else None
    _check_classes(data, cfg)
    return None


def _loads_like(cls: type, base: str, *methods: str) -> bool:
    """Whether `cls` is mmdet's or mmseg's `base`, or inherits these methods from it unchanged."""
    known = next((c for c in cls.__mro__ if c.__name__ == base and c.__module__.startswith(("mmdet.", "mmseg."))), None)
    return known is not None and all(getattr(cls, method) is getattr(known, method) for method in methods)


def _check_classes(data: Data, cfg: Config) -> None:
    if data.classes is not None:
        things = (data.config.get("metainfo") or getattr(data.cls, "METAINFO", {})).get("thing_classes")
        check_heads(cfg.get("model"), data.classes, things, data.classes_from)


_FIELDS = dict(
    images=("id", "file_name", "height", "width"),
    annotations=("id", "image_id", "category_id", "bbox", "area"),
    categories=("id", "name"),
)


def _read_coco(place: Place, without_labels: bool = False) -> dict[str, list[dict]]:
    """COCO's instances JSON with the fields that mmdet reads.

    Raises:
        InputError: missing, not JSON, not this format; annotation ids twice.
    """
    document = read_json(place)
    expected = "expected COCO's instances JSON, an object with the lists images, annotations and categories"
    if not isinstance(document, dict):
        raise InputError(f"{place.path}: holds a {type(document).__name__}; {expected}; set {place.keys}")
    for name, fields in _FIELDS.items():
        if without_labels and name == "annotations" and name not in document:
            document[name] = []
        entries = document.get(name)
        if not isinstance(entries, list):
            raise InputError(f"{place.path}: has no list {name!r}; {expected}; set {place.keys}")
        for i, entry in enumerate(entries):
            lacks = [field for field in fields if field not in entry] if isinstance(entry, dict) else list(fields)
            if lacks:
                raise InputError(f"{place.path}: {name}[{i}] has no {', '.join(lacks)}; {expected}; add it")
    if not document["images"]:
        raise InputError(f"{place.path}: names no pictures; its list 'images' is empty; write the file again")
    twice = [number for number, n in Counter(entry["id"] for entry in document["annotations"]).items() if n > 1]
    if twice:
        raise InputError(f"{place.path}: annotation ids occur more than once: {some(twice)}; number them anew")
    return document


def _check_coco(data: Data, cfg: Config) -> Report:
    place, pictures = data.place("ann_file"), data.place("data_prefix", "img")
    if place is None or not data.config.get("ann_file"):
        raise InputError(f"{data.key}: has no ann_file; set {data.key}.ann_file to COCO's instances JSON")
    test_mode = bool(data.config.get("test_mode"))
    document = _read_coco(place, test_mode)
    counts, notes = _match_categories(data, document, place)
    _check_classes(data, cfg)
    if not sum(counts.values()) and not (test_mode and not document["annotations"]):
        raise InputError(
            f"{place.path}: none of its {len(document['annotations'])} annotations is left: none is of the classes of "
            f"{data.classes_from} and has a box inside its picture, at least 1 pixel wide and high, and area > 0; "
            f"correct the file, or set {place.keys}"
        )
    folder = Place(data.config.get("data_root") or ".", f"{data.key}.data_root") if pictures is None else pictures
    need_folder(folder, "picture folder")
    files = [os.path.join(folder.path, entry["file_name"]) for entry in document["images"]]
    if missing := absent(files):
        raise InputError(
            f"{place.path}: names {len(missing)} of {len(files)} pictures that are not in {folder.path}: "
            f"{some([os.path.relpath(path, folder.path) for path in missing])}; add them, or set {folder.keys}"
        )
    if note := check_pictures(files):
        notes.append(f"pictures: {note}")
    return Report(where=place.path, pictures=len(files), unit="objects", classes=counts, notes=notes)


def _match_categories(data: Data, document: dict, place: Place) -> tuple[dict[str, int], list[str]]:
    """Objects a class, as mmdet will count them; notes on categories that are left out.

    mmdet numbers classes by the order of the file's categories, whatever the order of `classes`.

    Raises:
        InputError: the file has not all the classes, or has them in another order.
    """
    names = [category["name"] for category in document["categories"]]
    classes = data.classes or ()
    advice = f"set {data.key}.metainfo=dict(classes={_tuple_of(names)})"
    if missing := [name for name in classes if name not in names]:
        raise InputError(
            f"{place.path}: has no categories for {some(missing)} of the {len(classes)} classes of "
            f"{data.classes_from}; the file's are {some(names, 10)}: {advice}"
        )
    kept = [name for name in names if name in classes]
    if kept != list(classes):
        raise InputError(
            f"{place.path}: its categories are in another order than {data.classes_from}, or some occur twice, and "
            f"mmdet goes by the file's order: every name would be another class's; "
            f"set {data.key}.metainfo=dict(classes={_tuple_of(kept)})"
        )
    by_id = {category["id"]: category["name"] for category in document["categories"]}
    sizes = {picture["id"]: (picture["width"], picture["height"]) for picture in document["images"]}
    counts = dict.fromkeys(classes, 0)
    for entry in document["annotations"]:
        name = by_id.get(entry["category_id"])
        if name in counts and not entry.get("ignore") and not entry.get("iscrowd"):
            counts[name] += _has_box(entry, sizes.get(entry["image_id"]))
    others = [name for name in names if name not in classes]
    notes = [f"categories of the file that are no classes and are left out: {some(others)}"] if others else []
    if empty := [name for name, count in counts.items() if not count]:
        notes.append(f"classes without an object: {some(empty, 10)}")
    return counts, notes


def _tuple_of(names: Sequence[str]) -> str:
    return repr(tuple(names)) if len(names) <= 20 else f"({', '.join(map(repr, names[:3]))}, ... all {len(names)})"


def _has_box(entry: Mapping, size: tuple[int, int] | None) -> bool:
    """Whether mmdet keeps the annotation: a part of the box is inside of a picture of (width, height)."""
    if size is None or len(entry["bbox"]) != 4:
        return False
    x, y, w, h = entry["bbox"]
    inside = min(x + w, size[0]) > max(x, 0) and min(y + h, size[1]) > max(y, 0)
    return inside and w >= 1 and h >= 1 and entry["area"] > 0


def _check_segmentation(data: Data, cfg: Config) -> Report:
    pictures, labels = data.place("data_prefix", "img_path"), data.place("data_prefix", "seg_map_path")
    if pictures is None:
        raise InputError(f"{data.key}: data_prefix has no img_path; set {data.key}.data_prefix.img_path")
    need_folder(pictures, "picture folder")
    suffix, label_suffix = data.default("img_suffix"), data.default("seg_map_suffix")
    names = _picture_names(data, pictures, suffix)
    _check_classes(data, cfg)
    files = [os.path.join(pictures.path, name + suffix) for name in names]
    if missing := absent(files):
        raise InputError(
            f"{data.place('ann_file').path}: names {len(missing)} of {len(files)} pictures that are not in "
            f"{pictures.path}: {some([os.path.basename(path) for path in missing])}; add them, or set {pictures.keys}"
        )
    notes, counts = [], {}
    if labels is not None and _loads_labels(data):
        need_folder(labels, "label folder")
        maps = [os.path.join(labels.path, name + label_suffix) for name in names]
        if missing := absent(maps):
            raise InputError(
                f"{labels.path}: has no label image for {len(missing)} of {len(maps)} pictures of {pictures.path}: "
                f"{some([os.path.relpath(path, labels.path) for path in missing])}; add them, or set {labels.keys} or "
                f"{data.key}.seg_map_suffix (now {label_suffix!r})"
            )
    else:
        maps = []
    if note := check_pictures(files):
        notes.append(f"pictures: {note}")
    if maps and data.classes is not None:
        counts, more = _count_labels(data, maps, files)
        notes += more
    return Report(where=pictures.path, pictures=len(files), unit="pixels", classes=counts, notes=notes)


def _picture_names(data: Data, folder: Place, suffix: str) -> list[str]:
    """Names of the pictures, relative to the folder and without suffix: from `ann_file` if there is one, or all."""
    place = data.place("ann_file")
    if data.default("ann_file") and not os.path.isdir(place.path):
        need_file(place, "list of pictures")
        names = [line.strip() for line in Path(place.path).read_text(encoding="utf-8").splitlines()]
        if not names:
            raise InputError(f"{place.path}: names no pictures; expected a name a line; set {place.keys}")
        return names
    names = sorted(
        os.path.relpath(os.path.join(where, name), folder.path).removesuffix(suffix)
        for where, _, files in os.walk(folder.path)
        for name in files
        if name.endswith(suffix) and not name.startswith(".")
    )
    if not names:
        raise InputError(f"{folder.path}: no pictures *{suffix} in it; set {folder.keys} or {data.key}.img_suffix")
    return names


def _loads_labels(data: Data) -> bool:
    """Whether the pipeline reads label images by mmseg's or mmdet's `LoadAnnotations`."""
    steps = [step.get("type") for step in data.config.get("pipeline") or () if isinstance(step, Mapping)]
    return any(isinstance(kind, str) and kind.split(".")[-1] == "LoadAnnotations" for kind in steps)


def _count_labels(data: Data, maps: list[str], files: list[str]) -> tuple[dict[str, int], list[str]]:
    """Pixels a class.

    Raises:
        InputError: a label image that does not fit its picture; values that are no class; nothing but 'ignore'.
    """
    results, note = look_at(maps, lambda index: read_labels(maps[index], files[index]))
    if wrong := sorted((result.path, result.wrong) for result in results if result.wrong is not None):
        raise InputError(f"{wrong[0][0]}: {wrong[0][1]} ({len(wrong)} of {len(maps)} label images)")
    own = getattr(data.cls, "METAINFO", {}).get("classes")
    stored = tuple(own) if own is not None else data.classes  # a choice of classes is mapped after reading
    reduced = bool(data.default("reduce_zero_label"))
    ignored = {255, data.default("ignore_index")} | ({0} if reduced else set())
    values: Counter[int] = Counter()
    for result in results:
        values.update(result.counts)
    outside = sorted(value for value in values if value not in ignored and not 0 <= value - reduced < len(stored))
    if outside:
        first = min(result.path for result in results if outside[0] in result.counts)
        zero = (
            ""
            if reduced
            else (f"; if 0 means 'no class' there, set {data.key}.reduce_zero_label=True" * (outside == [len(stored)]))
        )
        raise InputError(
            f"{first}: has the label {outside[0]}, and the {len(stored)} classes of {data.classes_from} have the "
            f"labels {int(reduced)} to {len(stored) - 1 + reduced}, 255 for 'ignore' (reduce_zero_label={reduced}; "
            f"labels found outside: {some(outside, 5)}): correct the label images, or the classes{zero}"
        )
    counts = dict.fromkeys(data.classes, 0)
    for value, number in values.items():
        if value not in ignored and stored[value - reduced] in counts:
            counts[stored[value - reduced]] += number
    if not sum(counts.values()):
        raise InputError(
            f"{os.path.dirname(maps[0])}: every pixel looked at is 'ignore' or of no class: nothing to learn from; "
            f"correct the label images, or set {data.key}.metainfo.classes or {data.key}.reduce_zero_label "
            f"(now {reduced})"
        )
    notes = [f"label images: {note}; the counts are of these"] if note else []
    if empty := [name for name, count in counts.items() if not count]:
        notes.append(f"classes without a pixel: {some(empty, 10)}")
    return counts, notes


def _check_folders(data: Data, cfg: Config) -> Report:
    place = data.place("data_prefix", "img_path") or Place(data.config.get("data_root") or "", f"{data.key}.data_root")
    need_folder(place, "data folder")
    given = data.config.get("classes") or (data.config.get("metainfo") or {}).get("classes")
    names = match_folders(place.path, None if given is None else read_classes(given))
    suffixes = tuple(data.config.get("suffixes", SUFFIXES))
    folders = {name: pictures_of(os.path.join(place.path, name), suffixes) for name in names}
    files = [path for paths in folders.values() for path in paths]
    if not files:
        raise InputError(f"{place.path}: no pictures in its class folders; looked for {', '.join(suffixes)}")
    check_heads(cfg.get("model"), names, None, f"{place.path} (its class folders)")
    notes = []
    if empty := [name for name, paths in folders.items() if not paths]:
        notes.append(f"classes without a picture: {some(empty, 10)}")
    if note := check_pictures(files):
        notes.append(f"pictures: {note}")
    counts = {name: len(paths) for name, paths in folders.items()}
    return Report(where=place.path, pictures=len(files), unit="pictures", classes=counts, notes=notes)


def _check_evaluators(cfg: Config, split: str) -> None:
    """Ask that annotation files of evaluators exist.

    Raises:
        InputError: one does not.
    """
    evaluator = cfg.get(f"{split}_evaluator")
    several = isinstance(evaluator, Sequence)
    for i, metric in enumerate(evaluator if several else [evaluator]):
        path = metric.get("ann_file") if isinstance(metric, Mapping) else None
        if isinstance(path, str) and not is_remote(path):
            key = f"{split}_evaluator.{i}.ann_file" if several else f"{split}_evaluator.ann_file"
            need_file(Place(path, key), "annotation file")
