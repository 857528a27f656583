"""Pictures in tar shards of WebDataset's form, read at random places."""

import glob
import json
import os
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..errors import InputError
from ..registry import DATASETS
from .class_pictures import ClassPictures
from .image_folder import SUFFIXES, read_classes


@DATASETS.register_module()
class TarShards(ClassPictures):
    """Pictures of `00000000.jpg` and class numbers of `00000000.cls`, pairs in tar files; see `LoadPicture`.

    A shard is read through once to note where its pictures are, and the notes are kept in `SHARD.index.json`. From
    then on any picture is one read, so that every sampler, exact resumption and evaluation work as with folders; a
    stream through webdataset's own loader has none of them.

    Args:
        data_root, data_prefix, classes, metainfo, **others: see `ClassPictures`; the prefix is the shards, a pattern as
            'train-*.tar'. Without `classes` they stand in `classes.txt` beside the shards.

    A sample of the list: `img_path` (SHARD/NAME), `span` (shard, first byte, bytes), `gt_label`, counted from 0.

    Raises:
        InputError: no shards; one is damaged; a picture without class; a class number without name.
    """

    def find_classes(self, where: str, given: str | Sequence[str] | None) -> tuple[str, ...]:
        """Those given, or of the file beside the shards; notes which shards there are."""
        self.shards = sorted(glob.glob(where))
        if not self.shards:
            raise InputError(f"{where}: no tar files of that name; make them with `bestiary data prepare shards`")
        return read_classes(os.path.join(os.path.dirname(self.shards[0]), "classes.txt") if given is None else given)

    def load_data_list(self) -> list[dict]:
        """All pictures, shard after shard."""
        classes, samples = self.metainfo["classes"], []
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(read_index, self.shards))
        for shard, entries in zip(self.shards, found, strict=True):
            for name, first, size, label in entries:
                if not 0 <= label < len(classes):
                    raise InputError(
                        f"{shard}: {name} is of class number {label}, but there are {len(classes)} names (counted from "
                        "0): give `classes` all of them"
                    )
                samples.append(dict(img_path=f"{shard}/{name}", span=(shard, first, size), gt_label=label))
        return samples

    def get_cat_ids(self, idx: int) -> list[int]:
        """The class of a sample, as `ClassBalancedDataset` asks for it."""
        return [self.get_data_info(idx)["gt_label"]]


def read_index(shard: str) -> list[list]:
    """[name, first byte, bytes, class number] of each picture of a shard, from its notes if these are of this file.

    Raises:
        InputError: the tar file is damaged; a picture has no class, or one that is no number.
    """
    notes, state = Path(f"{shard}.index.json"), os.stat(shard)
    stamp = [state.st_size, state.st_mtime_ns]
    try:
        kept = json.loads(notes.read_text(encoding="utf-8"))
        if kept["stamp"] == stamp:
            return kept["pictures"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # none, half of one, or another's: made anew
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, name = os.path.split(member.name)
                key, _, suffix = name.partition(".")  # WebDataset's rule: all after the first dot
                key = os.path.join(folder, key)
                if not member.isfile():
                    continue
                if f".{suffix.lower()}" in SUFFIXES:
                    pictures[key] = (member.name, member.offset_data, member.size)
                elif suffix == "cls":
                    labels[key] = int(tar.extractfile(member).read())
            end = tar.offset
    except (tarfile.TarError, ValueError, EOFError, OSError) as error:
        raise InputError(f"{shard}: cannot be read as tar shard: {error}; write it again") from error
    if end > state.st_size:
        raise InputError(f"{shard}: ends within a file, at {state.st_size} of {end} bytes; write it again")
    if lacking := [name for key, (name, _, _) in pictures.items() if key not in labels]:
        raise InputError(f"{shard}: {lacking[0]} has no {lacking[0].partition('.')[0]}.cls with its class number")
    if not pictures:
        raise InputError(f"{shard}: no pictures in it; looked for {', '.join(SUFFIXES)}")
    found = [[*pictures[key], labels[key]] for key in pictures]
    part = notes.with_name(f"{notes.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(dict(stamp=stamp, pictures=found)), encoding="utf-8")
        os.replace(part, notes)
    except OSError:
        pass  # a read-only folder: read through again next time
    return found
