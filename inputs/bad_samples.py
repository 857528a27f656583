"""Samples that cannot be read: told by their path, and a bounded number of them replaced, counted and listed.

    bad_samples = dict(allowed=10)  # in a config; left out, the first one ends the run

A picture that cannot be decoded in the third hour of a run is a mistake in the data. What a sample's reading raises is
sorted here into such mistakes, and bugs in code, which go on with their traceback.
"""

import errno
import fcntl
import json
import os
import struct
import traceback
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import UnidentifiedImageError

from ..errors import InputError

FILE = "bad_samples.jsonl"  # in the work directory: a line for each, with index, path and reason
KEYS = ("allowed",)
ATTEMPTS = 100  # replacements that may be bad themselves
NOT_DATA = (errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EDQUOT)  # the machine's, not the file's
# What readers raise on damaged files beside OSError. NameError, ImportError, RuntimeError and so on are bugs.
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, AssertionError, SyntaxError, EOFError, OverflowError)
MALFORMED += (struct.error, zlib.error, cv2.error)
PATHS = ("img_path", "seg_map_path", "sem_seg_map_path", "ann_path")
OURS = __name__.rpartition(".inputs.")[0]


class Bad(NamedTuple):
    """A sample that could not be read."""

    index: int
    path: str
    why: str


class BadSamples:
    """The list of a run's bad samples: one file for all workers and processes, and for the runs that resume it.

    Each distinct sample counts once, however often it is drawn. The file is appended to under a lock, a line at a time;
    a line that was cut off by a kill is passed over. Where processes do not share the work directory's disk, each
    machine counts for itself.

    Args:
        allowed: how many there may be.
        folder: the work directory; it is there.
    """

    def __init__(self, allowed: int, folder: str | os.PathLike) -> None:
        self.allowed, self.path = allowed, Path(folder) / FILE

    def read(self) -> list[Bad]:
        """Those so far, in the order in which they were met."""
        try:
            lines = self.path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        found: dict[int, Bad] = {}
        for line in lines:
            try:
                bad = Bad(**json.loads(line))
            except (ValueError, TypeError):
                continue
            found.setdefault(bad.index, bad)
        return list(found.values())

    def add(self, bad: Bad) -> None:
        """Note one, unless it is noted already.

        Raises:
            InputError: it is one too many, or the list cannot be written.
        """
        try:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                known = self.read()
                if bad.index not in [other.index for other in known]:
                    size = os.fstat(handle).st_size
                    torn = size and os.pread(handle, 1, size - 1) != b"\n"
                    os.write(handle, b"\n" * bool(torn) + json.dumps(bad._asdict()).encode() + b"\n")
                    known.append(bad)
            finally:
                os.close(handle)
        except OSError as error:
            raise InputError(f"{self.path}: the list of bad samples cannot be written: {error.strerror}") from error
        if len(known) > self.allowed:
            raise InputError(
                f"{bad.path}: {bad.why}. That makes {len(known)} samples that cannot be read, and "
                f"bad_samples.allowed={self.allowed}: mend them or take them out of the data set; they are listed in "
                f"{self.path}"
            )


class SampleReader:
    """Reads a sample of a data set; a call gives what `dataset[index]` gives.

    Args:
        dataset: mmengine's, mmdet's or mmseg's, or any with `[index]` and a length.
        bad: where bad samples are noted, and how many may be; None allows none.
        reseed: called with non-negative numbers before a replacement is read, to seed the random generators by them.
    """

    def __init__(self, dataset: Any, bad: BadSamples | None = None, reseed: Callable[..., None] | None = None) -> None:
        self.dataset, self.bad, self.reseed = dataset, bad, reseed

    def __call__(self, index: int, seeds: Sequence[int] = ()) -> Any:
        """The sample, or in place of a bad one another, which follows from `seeds` alone.

        Raises:
            InputError: it cannot be read, or is one too many that cannot.
        """
        drawn = index
        for attempt in range(ATTEMPTS):
            try:
                return self.dataset[drawn]
            except Exception as error:  # sorted: data are noted or explained, all else is raised again
                why = why_unreadable(error)
                if why is None:
                    raise
                bad = Bad(int(drawn), path_of(self.dataset, drawn, error), why)
                if self.bad is None or self.bad.allowed < 1:
                    raise InputError(
                        f"{bad.path}: {why}; mend it or take it out of the data set, or allow some by "
                        "bad_samples=dict(allowed=10) in the config"
                    ) from error
                self.bad.add(bad)
            draw = np.random.SeedSequence((*seeds, index, attempt)).generate_state(1, np.uint64)
            drawn = int(draw[0] % len(self.dataset))
            if self.reseed is not None:
                self.reseed(*seeds, attempt)
        raise InputError(f"{bad.path}: {why}; {ATTEMPTS} samples drawn in its place cannot be read either")


def why_unreadable(error: BaseException) -> str | None:
    """What is wrong with the data of a sample whose reading raised `error`, in words; None if it may be a bug."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError):  # PIL's, too
        if error.errno in NOT_DATA or not _in_reading(error):
            return None
        if isinstance(error, UnidentifiedImageError):
            return "cannot be decoded as a picture"
        return (error.strerror or str(error)).strip() or type(error).__name__
    if isinstance(error, AssertionError) and "failed to load image" in str(error):  # mmcv, where OpenCV gives up
        return "cannot be decoded as a picture"
    if type(error).__name__ == "DecompressionBombError":
        return str(error)
    if (isinstance(error, MALFORMED) or type(error) is Exception) and _in_reading(error):  # pycocotools: the latter
        text = " ".join(str(error).split())
        return f"its picture or annotation is malformed: {type(error).__name__}{': ' * bool(text)}{text}"
    return None


def _in_reading(error: BaseException) -> bool:
    """Whether a step that loads was at work, ours or of OpenMMLab's, and the error comes out of a library."""
    frames = list(traceback.walk_tb(error.__traceback__))
    modules = [frame.f_globals.get("__name__", "") for frame, _ in frames]
    loading = [
        i
        for i, (frame, _) in enumerate(frames)
        if type(frame.f_locals.get("self")).__name__.startswith("Load")
        and modules[i].startswith(("mmcv.", "mmdet.", "mmseg.", f"{OURS}."))
    ]
    if not loading:
        return False
    # A step of a person's own that is called, or that inherits from one that loads, may have a bug.
    inner = {type(frame.f_locals.get("self")).__module__.partition(".")[0] for frame, _ in frames[loading[0] :]}
    inner |= {name.partition(".")[0] for name in modules[loading[0] :]}
    return inner <= _LIBRARIES


_LIBRARIES = {"mmcv", "mmdet", "mmseg", "mmengine", OURS.partition(".")[0], "PIL", "cv2", "numpy", "pycocotools"}
_LIBRARIES |= {"torch", "builtins", "importlib", "nibabel", "json", "io", "genericpath", "posixpath", "pathlib", "_io"}


def path_of(dataset: Any, index: int, error: BaseException | None = None) -> str:
    """The file that a sample, or the reading that raised `error`, is about; else the sample's number."""
    if isinstance(error, OSError) and isinstance(error.filename, str):
        return error.filename
    steps = [frame.f_locals for frame, _ in traceback.walk_tb(error.__traceback__)] if error is not None else []
    for names in reversed(steps):  # the step that loads has a dict of the sample, and reads the picture or its labels
        if type(names.get("self")).__name__.startswith("Load") and isinstance(sample := names.get("results"), dict):
            labels = type(names["self"]).__name__.endswith("Annotations")
            for key in (*PATHS[1:], PATHS[0]) if labels else PATHS:
                if isinstance(sample.get(key), str):
                    return sample[key]
    try:
        sample = dataset.get_data_info(index)
    except Exception:  # any data set may have none, or fail again
        sample = {}
    found = next((sample[key] for key in PATHS if isinstance(sample.get(key), str)), None)
    return found or f"sample {index} of {type(dataset).__name__}"


def bad_samples_of(config: Any, folder: str | os.PathLike) -> BadSamples | None:
    """What a config's `bad_samples` says; None where there is none.

    Raises:
        InputError: it is not dict(allowed=N).
    """
    if config is None:
        return None
    allowed = config.get("allowed") if isinstance(config, dict) and set(config) == set(KEYS) else None
    if isinstance(allowed, bool) or not isinstance(allowed, int) or allowed < 0:
        raise InputError(f"bad_samples={config!r}: give dict(allowed=N), how many unreadable samples a run may replace")
    return BadSamples(allowed, folder)
