"""Parts that a released data set is made of, each of which knows what it must hold and says what is missing."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ..check_coco import read_coco
from ..check_files import Place, absent, decode, look_at, read_json, read_labels, some
from ..image_folder import pictures_of


@dataclass(frozen=True)
class Finding:
    """What was found of a part: its path, what it should hold and what it holds, in words; problems, none if whole."""

    path: str
    expected: str
    found: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part(ABC):
    """A folder or file of a data set, relative to its root.

    Args:
        path: relative to the root.
        optional: its absence is no problem.
    """

    path: str
    optional: bool = False

    def examine(self, root: str) -> Finding:
        """Look at the part."""
        if not os.path.exists(os.path.join(root, self.path)):
            state = "not there (optional)" if self.optional else "missing"
            problem = () if self.optional else (f"{os.path.join(root, self.path)}: missing; {self.remedy}",)
            return Finding(self.path, self.expected, state, problem)
        try:
            found, problems = self.look(root)
        except InputError as error:
            found, problems = "not readable", [str(error)]
        return Finding(self.path, self.expected, found, tuple(problems))

    @property
    @abstractmethod
    def expected(self) -> str:
        """What the release has there, in words."""

    @property
    def remedy(self) -> str:
        return f"it holds {self.expected}"

    @abstractmethod
    def look(self, root: str) -> tuple[str, list[str]]:
        """What is there, in words, and the problems."""


@dataclass(frozen=True)
class Files(Part):
    """A folder of files, at any depth.

    Args:
        suffix: of the files' names; pictures are decoded in a random sample, label images' values are compared.
        count: how many there are in the release; None if that is not fixed.
        name: their names, as 'ADE_val_{:08d}.jpg', numbered from 1; None if they are not regular.
        labels: (lowest, highest) value in label images, 255 apart; None for other files.
        how: what to do if they are not there.
    """

    suffix: str = ".jpg"
    count: int | None = None
    name: str | None = None
    labels: tuple[int, int] | None = None
    how: str = ""

    @property
    def expected(self) -> str:
        return f"{self.count:,} *{self.suffix}" if self.count is not None else f"*{self.suffix}"

    @property
    def remedy(self) -> str:
        return self.how or super().remedy

    def look(self, root: str) -> tuple[str, list[str]]:
        folder = os.path.join(root, self.path)
        paths = [path for path in pictures_of(folder, (self.suffix.lower(),)) if path.endswith(self.suffix)]
        problems = []
        if self.name is not None and self.count is not None:
            there = {os.path.basename(path) for path in paths}
            names = [self.name.format(number) for number in range(1, self.count + 1)]
            if lacking := [name for name in names if name not in there]:
                problems.append(f"{folder}: {len(lacking):,} of {self.count:,} files are missing: {some(lacking)}")
            if more := sorted(there.difference(names)):
                problems.append(f"{folder}: files that are not of the release: {some(more)}; take them away")
        elif self.count is not None and len(paths) != self.count:
            problems.append(f"{folder}: {len(paths):,} files *{self.suffix}, the release has {self.count:,}")
        elif not paths:
            problems.append(f"{folder}: no files *{self.suffix} in it; {self.remedy}")
        return f"{len(paths):,} *{self.suffix}", problems + self._damage(paths)

    def _damage(self, paths: list[str]) -> list[str]:
        if self.labels is not None:
            low, high = self.labels
            results, _ = look_at(paths, lambda index: read_labels(paths[index], paths[index]))
            wrong = {}
            for result in results:
                outside = [value for value in result.counts if value != 255 and not low <= value <= high]
                if result.wrong or outside:
                    wrong[result.path] = result.wrong or f"has the labels {some(outside)}, outside of {low} to {high}"
        elif self.suffix in (".json", ".xml", ".txt"):
            wrong = {path: "the file is empty" for path in paths if not os.path.getsize(path)}
        else:
            results, _ = look_at(paths, lambda index: (paths[index], decode(paths[index])[0]))
            wrong = {path: f"cannot be decoded: {why}" for path, why in results if why is not None}
        path = min(wrong, default=None)
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        return [f"{path}: {wrong[path]}{more}; get it again"] if path is not None else []


@dataclass(frozen=True)
class Pairs(Part):
    """Every picture has a label image and every label image a picture.

    Args:
        path: folder of the pictures.
        labels: folder of the label images.
        suffix, label_suffix: what their names end with, after a part that they share.
    """

    labels: str = ""
    suffix: str = ".jpg"
    label_suffix: str = ".png"

    @property
    def expected(self) -> str:
        return f"a label image in {self.labels} for each picture"

    def look(self, root: str) -> tuple[str, list[str]]:
        folder, labels = os.path.join(root, self.path), os.path.join(root, self.labels)
        if not os.path.isdir(labels):
            return "no label images", []  # the labels' own part says so
        ours, theirs = self._stems(folder, self.suffix), self._stems(labels, self.label_suffix)
        problems = []
        for lacking, where, suffix in (
            (ours - theirs, labels, self.label_suffix),
            (theirs - ours, folder, self.suffix),
        ):
            if lacking:
                names = [name + suffix for name in sorted(lacking)]
                problems.append(f"{where}: {len(names):,} files are missing that go with others: {some(names)}")
        return f"{len(ours & theirs):,} pairs", problems

    @staticmethod
    def _stems(folder: str, suffix: str) -> set[str]:
        found = pictures_of(folder, (suffix.lower(),))
        return {os.path.relpath(path, folder).removesuffix(suffix) for path in found if path.endswith(suffix)}


@dataclass(frozen=True)
class ClassFolders(Part):
    """A folder a class, with pictures.

    Args:
        classes: names of the folders.
        count: pictures in all.
        each: (least, most) pictures in a folder.
        name: the pictures' names, numbered from 1 over all classes; None if they are not regular.
        how: what to do if folders are not there.
    """

    classes: tuple[str, ...] = ()
    count: int = 0
    each: tuple[int, int] = (1, 1)
    name: str | None = None
    how: str = ""

    @property
    def expected(self) -> str:
        return f"{self.count:,} pictures in {len(self.classes):,} class folders"

    def look(self, root: str) -> tuple[str, list[str]]:
        folder = os.path.join(root, self.path)
        there = {entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")}
        problems, paths = [], []
        if lacking := [name for name in self.classes if name not in there]:
            how = f"; {self.how}" if self.how and len(lacking) == len(self.classes) else ""
            problems.append(f"{folder}: {len(lacking):,} class folders are missing: {some(lacking)}{how}")
        if more := sorted(there.difference(self.classes)):
            problems.append(f"{folder}: folders that are no class of the release: {some(more)}; take them away")
        least, most = self.each
        should = f"{least} to {most}" if most > least else f"{least}"
        for name in self.classes:
            if name in there:
                found = pictures_of(os.path.join(folder, name))
                paths += found
                if not least <= len(found) <= most:
                    problems.append(f"{os.path.join(folder, name)}: {len(found)} pictures, the release has {should}")
        if self.name is not None:
            names = {os.path.basename(path) for path in paths}
            wanted = (self.name.format(number) for number in range(1, self.count + 1))
            if lacking := [name for name in wanted if name not in names]:
                problems.append(f"{folder}: {len(lacking):,} pictures are missing: {some(lacking)}")
        elif len(paths) != self.count and not problems:
            problems.append(f"{folder}: {len(paths):,} pictures, the release has {self.count:,}")
        results, _ = look_at(paths, lambda index: (paths[index], decode(paths[index])[0]))
        for path, why in sorted((path, why) for path, why in results if why is not None)[:3]:
            problems.append(f"{path}: cannot be decoded: {why}; get it again")
        return f"{len(paths):,} pictures in {len(there):,} folders", problems


@dataclass(frozen=True)
class CocoFile(Part):
    """An annotation file in COCO's form.

    Args:
        images, annotations: how many the release has.
        classes: names of its categories; compared in order.
        pictures: folder of its pictures, None to leave them to another part; LVIS names them by `coco_url`.
    """

    images: int = 0
    annotations: int = 0
    classes: tuple[str, ...] = ()
    pictures: str | None = None

    @property
    def expected(self) -> str:
        return f"{self.images:,} pictures, {self.annotations:,} annotations, {len(self.classes):,} categories"

    def look(self, root: str) -> tuple[str, list[str]]:
        path = os.path.join(root, self.path)
        document = read_json(Place(path, "the file"))
        lists = ("images", "annotations", "categories")
        if not isinstance(document, dict) or any(not isinstance(document.get(name), list) for name in lists):
            return "of another form", [f"{path}: has not the lists {', '.join(lists)}: it is not of the release"]
        if document["images"] and "file_name" in document["images"][0]:
            document = read_coco(Place(path, "the file"))
        counts, release = [len(document[name]) for name in lists], (self.images, self.annotations, len(self.classes))
        problems = [
            f"{path}: {count:,} {name}, the release has {wanted:,}"
            for name, count, wanted in zip(lists, counts, release, strict=True)
            if count != wanted
        ]
        names = [entry.get("name") for entry in document["categories"]]
        if wrong := [(a, b) for a, b in zip(names, self.classes, strict=False) if a != b]:
            problems.append(f"{path}: category {wrong[0][0]!r} stands where the release has {wrong[0][1]!r}")
        if self.pictures is not None and os.path.isdir(os.path.join(root, self.pictures)):
            # LVIS's pictures are COCO's, by the last two parts of their address: train2017/000000000009.jpg.
            files = [
                os.path.join(root, self.pictures, entry.get("file_name") or "/".join(entry["coco_url"].split("/")[-2:]))
                for entry in document["images"]
            ]
            if lacking := absent(files):
                folder = os.path.join(root, self.pictures)
                short = [os.path.relpath(file, folder) for file in lacking]
                problems.append(f"{folder}: {len(lacking):,} of {len(files):,} pictures are missing: {some(short)}")
        return f"{counts[0]:,} pictures, {counts[1]:,} annotations, {counts[2]:,} categories", problems


@dataclass(frozen=True)
class NameList(Part):
    """A text file with a name a line, the first word of it, and files of these names.

    Args:
        count: lines.
        of: pairs of a folder and a suffix; every name has a file in each.
    """

    count: int = 0
    of: tuple[tuple[str, str], ...] = ()

    @property
    def expected(self) -> str:
        return f"{self.count:,} names"

    def look(self, root: str) -> tuple[str, list[str]]:
        path = os.path.join(root, self.path)
        names = [line.split()[0] for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
        problems = [f"{path}: {len(names):,} names, the release has {self.count:,}"] * (len(names) != self.count)
        for folder, suffix in self.of:
            where = os.path.join(root, folder)
            if lacking := absent([os.path.join(where, name + suffix) for name in names]):
                short = [os.path.basename(name) for name in lacking]
                problems.append(f"{where}: {len(lacking):,} files that {self.path} names are missing: {some(short)}")
        return f"{len(names):,} names", problems


@dataclass(frozen=True)
class RealLabels(Part):
    """ImageNet's reassessed labels (arXiv:2006.07159): a JSON list of lists of class numbers.

    Args:
        count: pictures.
        labelled: of them, those that have a label.
        classes: class numbers are below it.
    """

    count: int = 0
    labelled: int = 0
    classes: int = 1000

    @property
    def expected(self) -> str:
        return f"labels of {self.count:,} pictures, {self.labelled:,} of them with any"

    def look(self, root: str) -> tuple[str, list[str]]:
        path = os.path.join(root, self.path)
        labels = read_json(Place(path, "the file"), "lists of class numbers")
        if not isinstance(labels, list) or not all(isinstance(entry, list) for entry in labels):
            return "of another form", [f"{path}: is not a list of lists of class numbers: it is not of the release"]
        having = sum(bool(entry) for entry in labels)
        problems = []
        if (len(labels), having) != (self.count, self.labelled):
            problems.append(
                f"{path}: {len(labels):,} pictures, {having:,} with labels; the release has {self.count:,} and "
                f"{self.labelled:,}"
            )
        if wrong := [value for entry in labels for value in entry if not 0 <= value < self.classes]:
            problems.append(f"{path}: class number {wrong[0]} is not of 0 to {self.classes - 1}")
        return f"{len(labels):,} pictures, {having:,} with labels", problems


def examine_all(root: str, parts: Sequence[Part]) -> Iterator[Finding]:
    """The findings, part by part, as they come."""
    for part in parts:
        yield part.examine(root)
