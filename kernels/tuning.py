"""Measured orders of an operator's backends: a table that ships with the package, and the user's own in the cache.

`bestiary benchmark kernels --tune` measures and writes the user's table, which goes before the shipped one entry by
entry. A table is read once in a process, so a call gets the same backend every time. An entry's name says what was
measured (device class, dtype, need of a gradient, sizes by powers of two); the operator makes it up. Where there is
no entry, the operator's rule decides.
"""

import functools
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .build import cache_folder

FORMAT = 1
logger = logging.getLogger("bestiary.kernels")

Entries = dict[str, dict[str, float]]  # kind of call: seconds by backend


def bucket(size: int) -> int:
    """Powers of two: 1, 2, 3 to 4, 5 to 8, ... give 0, 1, 2, 3, ..."""
    return max(0, size - 1).bit_length()


@functools.cache
def device_class(kind: str, index: int | None = None) -> str:
    """The machines among which measured orders are shared: cpu, sm_90, gfx942, or the kind of device."""
    if kind != "cuda":
        return kind
    properties = torch.cuda.get_device_properties(torch.device(kind, index or 0))
    if torch.version.hip is not None:
        return str(properties.gcnArchName).split(":")[0]
    return f"sm_{properties.major}{properties.minor}"


def shipped_table(operator: str) -> Path:
    """Where the table that comes with the package lies, if the operator has one."""
    return Path(__file__).parent / operator / "tuning.json"


def user_table(operator: str) -> Path:
    """Where this user's table lies or would lie."""
    return cache_folder() / "tuning" / f"{operator}.json"


def measured_with() -> dict[str, str]:
    """What a table of measurements holds for: other versions have other kernels."""
    return {"torch": torch.__version__}


@functools.cache
def order(operator: str, kind: str) -> tuple[str, ...]:
    """Backends by their measured time, fastest first; () where `kind` of call was never measured."""
    seconds = _entries(operator).get(kind, {})
    return tuple(sorted(seconds, key=seconds.__getitem__))


@functools.cache
def _entries(operator: str) -> Entries:
    user = user_table(operator)
    return read(shipped_table(operator)) | read(user, {key: str(value) for key, value in measured_with().items()})


def read(path: Path, wanted: Mapping[str, str] | None = None) -> Entries:
    """The entries of a table; none, and a line in the log that says why, where the file is broken or out of date.

    Args:
        wanted: versions that the table must have been measured with; None takes any.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s is ignored, it cannot be read: %s", path, error)
        return {}
    if reason := _misfit(table):
        logger.warning("%s is ignored: %s; delete it, or measure again", path, reason)
        return {}
    for name, version in (wanted or {}).items():
        if table["measured_with"].get(name) != version:
            logger.warning(
                "%s is ignored, it was measured with %s %s and this is %s: run bestiary benchmark kernels --tune",
                path, name, table["measured_with"].get(name), version,
            )  # fmt: skip
            return {}
    return table["entries"]


def _misfit(table: Any) -> str | None:
    """What is wrong with what a file held, None if it is a table."""
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        return f"it is no table of format {FORMAT}"
    if not isinstance(table.get("measured_with"), dict) or not isinstance(table.get("entries"), dict):
        return "measured_with or entries is missing"
    for kind, seconds in table["entries"].items():
        if not isinstance(seconds, dict) or not all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 for value in seconds.values()
        ):
            return f"entry {kind!r} is not seconds by backend"
    return None


def write(path: Path, entries: Entries, machine: Mapping[str, Any]) -> None:
    """Add `entries` to the table at `path`: a whole new file takes the old one's place, or nothing changes.

    Calls of this process keep the order that they have; entries of other versions are dropped.
    """
    table = {
        "format": FORMAT,
        "measured_with": measured_with(),
        "machine": dict(machine),
        "entries": dict(sorted((read(path, measured_with()) | entries).items())),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".json", delete=False, encoding="utf-8") as file:
        json.dump(table, file, indent=1)
        file.write("\n")
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)
