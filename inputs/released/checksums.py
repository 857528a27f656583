"""Checksums: of the archives that authors publish, and of a sample of files, to compare one copy with another."""

import json
import os
import random
from pathlib import Path

from torchvision.datasets import imagenet, voc

from ...errors import InputError
from ..check_files import Place, digest, read_json
from ..watched import watched

# MD5 of archives by file name, as torchvision knows them.
ARCHIVES = {name: md5 for name, md5 in imagenet.ARCHIVE_META.values()} | {
    entry["filename"]: entry["md5"]
    for year, entry in voc.DATASET_YEAR_DICT.items()
    if year in ("2007", "2007-test", "2012")
}


def damaged_archives(root: str) -> list[str]:
    """Archives in the folder or one above whose MD5 is not the published one, in words; those without one pass."""
    problems = []
    for folder in (root, os.path.dirname(os.path.abspath(root))):
        there = [name for name in ARCHIVES if os.path.isfile(os.path.join(folder, name))]
        for name in watched(there, "archives"):
            path, wanted = os.path.join(folder, name), ARCHIVES[name]
            if (found := digest(path, "md5")) != wanted:
                problems.append(f"{path}: its MD5 is {found}, the published one {wanted}; get it again")
    return problems


def write_checksums(root: str, path: str, sample: int = 1000, seed: int = 0) -> int:
    """Write SHA-256 and size of `sample` files of `root`, picked at random; returns how many."""
    files = sorted(
        os.path.relpath(os.path.join(where, name), root) for where, _, names in os.walk(root) for name in names
    )
    if not files:
        raise InputError(f"{root}: no files in it")
    chosen = sorted(random.Random(seed).sample(files, min(sample, len(files))))
    whole = {}
    for name in watched(chosen, "files"):
        file = os.path.join(root, name)
        whole[name] = [os.path.getsize(file), digest(file)]
    Path(path).write_text(json.dumps(dict(total=len(files), files=whole), indent=0), encoding="utf-8")
    return len(chosen)


def compare_checksums(root: str, path: str) -> list[str]:
    """What differs between `root` and a file that `write_checksums` wrote of another copy.

    Raises:
        InputError: the file is missing or of another kind.
    """
    record = read_json(Place(path, "the file"), "what `bestiary data verify --write-checksums` writes")
    if not isinstance(record, dict) or not isinstance(record.get("files"), dict):
        raise InputError(f"{path}: is not what `bestiary data verify --write-checksums` writes")
    problems = []
    for name, (size, wanted) in watched(record["files"].items(), "files"):
        file = os.path.join(root, name)
        if not os.path.isfile(file):
            problems.append(f"{file}: missing; {path} has it")
        elif os.path.getsize(file) != size:
            problems.append(f"{file}: {os.path.getsize(file):,} bytes, {path} has {size:,}")
        elif digest(file) != wanted:
            problems.append(f"{file}: other content than {path} has")
    return problems
