"""Class folders packed into tar shards, in WebDataset's form."""

import io
import random
import tarfile
from pathlib import Path

from ...errors import InputError
from ..image_folder import class_folders, pictures_of
from ..watched import watched


def write_shards(source: str, target: str, prefix: str, size: int = 1 << 28, seed: int = 0) -> list[str]:
    """Write `PREFIX-000000.tar`, ..., each with `00000000.jpg` and `00000000.cls` pairs, and `classes.txt`.

    Pictures are in random order, so that one shard has all kinds; their bytes are not touched.

    Args:
        source: folder of class folders.
        target: folder to write.
        prefix: of the shards' names, as 'train'.
        size: bytes a shard, about.
        seed: of the order.

    Returns:
        Lines that say what was written.

    Raises:
        InputError: `source` has no class folders or no pictures; `target` has shards of other classes.
    """
    names = class_folders(source)
    pictures = [(path, number) for number, name in enumerate(names) for path in pictures_of(Path(source, name))]
    if not pictures:
        raise InputError(f"{source}: no pictures in its class folders")
    random.Random(seed).shuffle(pictures)
    Path(target).mkdir(parents=True, exist_ok=True)
    listed, text = Path(target, "classes.txt"), "".join(f"{name}\n" for name in names)
    if listed.is_file() and listed.read_text(encoding="utf-8") != text:
        raise InputError(f"{listed}: lists other classes than the folders of {source}; write into another folder")
    listed.write_text(text, encoding="utf-8")
    shard, written, count = None, 0, 0
    try:
        for number, (path, label) in enumerate(watched(pictures, "pictures")):
            if shard is None or written > size:
                if shard is not None:
                    shard.close()
                shard = tarfile.open(Path(target, f"{prefix}-{count:06d}.tar"), "w", format=tarfile.USTAR_FORMAT)
                written, count = 0, count + 1
            key = f"{number:08d}"
            for suffix, content in ((Path(path).suffix.lower(), Path(path).read_bytes()), (".cls", b"%d" % label)):
                entry = tarfile.TarInfo(key + suffix)
                entry.size = len(content)
                shard.addfile(entry, io.BytesIO(content))
                written += len(content)
    finally:
        if shard is not None:
            shard.close()
    return [f"{target}: {len(pictures):,} pictures of {len(names):,} classes in {count} shards {prefix}-*.tar"]
