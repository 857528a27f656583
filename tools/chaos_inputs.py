"""Bad inputs: each ends in one clear message or a counted skip, or is read as it should; none in a traceback or a hang.

A case runs the command line in a process of its own, on small data that are damaged first.
"""

import contextlib
import ctypes
import json
import multiprocessing
import os
import re
import resource
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from bestiary.files import PART
from bestiary.inputs.bad_samples import FILE
from bestiary.tools.cli import main as bestiary

LIMIT = 240  # seconds: what takes longer counts as a hang
SIDE = 32

CLASSIFIER = """
custom_imports = dict(imports=["bestiary"])
default_scope = "bestiary"
steps = [dict(type="LoadPicture"), dict(type="PackImageInputs")]
loader = dict(batch_size=4, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False))
data = dict(type="ImageFolder", data_root="cls", pipeline=steps)
train_dataloader = dict(**loader, dataset=dict(**data, data_prefix="train"))
val_dataloader = dict(**loader, dataset=dict(**data, data_prefix="val"))
test_dataloader = val_dataloader
val_evaluator = dict(type="TopkAccuracy", topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=1, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.01))
env_cfg = dict(mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0), dist_cfg=dict(backend="nccl"))
arch = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8), layer_scale_init=1.0)
model = dict(
    type="ImageClassifier",
    backbone=dict(type="PoolFormer", arch=arch, out_indices=(3,)),
    head=dict(type="LinearHead", in_channels=8, num_classes=2),
)
bad_samples = dict(allowed=3)
work_dir = "run"
"""
DETECTOR = """
default_scope = "mmdet"
steps = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        type="CocoDataset",
        metainfo=dict(classes=("square", "disc")),
        ann_file="coco/train.json",
        data_prefix=dict(img="coco/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=4),
        pipeline=[*steps, dict(type="PackDetInputs")],
    ),
)
"""
SEGMENTOR = """
default_scope = "mmseg"
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        type="BaseSegDataset",
        metainfo=dict(classes=("background", "square", "disc")),
        data_root="seg",
        data_prefix=dict(img_path="images", seg_map_path="labels"),
        img_suffix=".png",
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")],
    ),
)
"""
TRAIN, CHECK = ["train", "cls.py"], ["data", "check"]
# What every command imports, imported once by the process that the commands' are forked from.
IMPORTED = [
    __name__,
    "bestiary.tools.train",
    "bestiary.tools.test",
    "bestiary.tools.data",
    "mmdet.datasets",
    "mmseg.datasets",
]


class Case(NamedTuple):
    """What is done to the data in the working directory, the command, and what it says; `status` is its exit status.

    `before` runs in the process of the command, before it.
    """

    name: str
    harm: Callable[[], object]
    command: list[str]
    says: str
    status: int = 1
    before: Callable[[], object] = lambda: None


def make_data() -> None:
    """cls/{train,val}/{square,disc}/*.png, coco/*.png with train.json, seg/{images,labels}/*.png, and three configs."""
    rng = np.random.default_rng(0)
    for name, text in {"cls.py": CLASSIFIER, "coco.py": DETECTOR, "seg.py": SEGMENTOR}.items():
        Path(name).write_text(text, encoding="utf-8")
    for split, count in (("train", 6), ("val", 2)):
        for number, kind in enumerate(("square", "disc")):
            for i in range(count):
                pixels = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
                pixels[8:20, 8:20, number] = 220
                save(pixels, f"cls/{split}/{kind}/{i}.png")
    images, annotations = [], []
    for i in range(4):
        pixels, labels = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        for kind in (1, 2):
            x, y = 2 + 14 * (kind - 1), 4 + i
            labels[y : y + 10, x : x + 10] = kind
            corners = [x, y, x + 10, y, x + 10, y + 10, x, y + 10]
            box = dict(bbox=[x, y, 10, 10], area=100, iscrowd=0, segmentation=[corners])
            annotations.append(dict(id=len(annotations) + 1, image_id=i, category_id=kind, **box))
        images.append(dict(id=i, file_name=f"{i}.png", width=SIDE, height=SIDE))
        for path in (f"coco/{i}.png", f"seg/images/{i}.png"):
            save(pixels, path)
        save(labels, f"seg/labels/{i}.png")
    categories = [dict(id=1, name="square"), dict(id=2, name="disc")]
    document = dict(images=images, annotations=annotations, categories=categories)
    Path("coco/train.json").write_text(json.dumps(document), encoding="utf-8")


def save(pixels: np.ndarray, path: str) -> None:
    """Write a picture; folders on the way are made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


PICTURE, COCO_PICTURE = "cls/train/disc/1.png", "coco/2.png"


def _write(path: str, content: bytes) -> Callable[[], object]:
    def write() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)

    return write


def _cut(path: str, share: float = 0.5) -> Callable[[], object]:
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[: int(share * Path(path).stat().st_size)])


def _jpeg_cut() -> None:
    with Image.open(PICTURE) as picture:
        picture.save("cls/train/disc/1.jpg")
    _cut("cls/train/disc/1.jpg", 0.7)()


def _folder(path: str) -> Callable[[], object]:
    return lambda: (Path(path).unlink(), Path(path).mkdir())


def _json(change: Callable[[dict], object]) -> Callable[[], object]:
    def harm() -> None:
        content = json.loads(Path("coco/train.json").read_bytes())
        change(content)
        Path("coco/train.json").write_text(json.dumps(content), encoding="utf-8")

    return harm


def _holes(content: dict) -> None:
    content["categories"][1]["id"] = 7
    for entry in content["annotations"]:
        entry["category_id"] = {1: 1, 2: 7}[entry["category_id"]]


def _every(**fields: object) -> Callable[[], object]:
    return _json(lambda content: [entry.update(fields) for entry in content["annotations"]])


def _config(path: str, old: str, new: str) -> Callable[[], object]:
    def harm() -> None:
        text = Path(path).read_text(encoding="utf-8")
        assert old in text, old
        Path(path).write_text(text.replace(old, new), encoding="utf-8")

    return harm


def _labels(values: np.ndarray) -> Callable[[], object]:
    return lambda: save(values, "seg/labels/1.png")


def _huge() -> None:
    """A PNG of 8 KB that says that it has 10^10 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    Path(PICTURE).write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(8000))) + chunk(b"IEND", b"")
    )


def _weights(change: Callable[[dict], object]) -> Callable[[], object]:
    """A checkpoint of the config's model, changed."""

    def harm() -> None:
        from bestiary.engine.configs import load_config
        from bestiary.registry import MODELS

        state = MODELS.build(load_config("cls.py").model).state_dict()
        torch.save({"state_dict": change(dict(state)) or state}, "weights.pth")

    return harm


def _renamed(state: dict) -> dict:
    return {("head.fc.wieght" if key == "head.fc.weight" else key): value for key, value in state.items()}


def _classes(state: dict) -> dict:
    return {key: torch.zeros(5, *v.shape[1:]) if key.startswith("head.fc") else v for key, v in state.items()}


def _nan(state: dict) -> dict:
    return {key: torch.full_like(v, float("nan")) if v.is_floating_point() else v for key, v in state.items()}


def without_rights() -> None:
    """Give up what lets root pass over the rights of files, in this process for good (capabilities(7))."""

    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    class Sets(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable")]

    header, sets = Header(0x20080522, 0), (Sets * 2)()
    library = ctypes.CDLL(None, use_errno=True)
    if library.capget(ctypes.byref(header), sets) == 0:
        for name in ("effective", "permitted"):
            setattr(sets[0], name, getattr(sets[0], name) & ~0b110)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        library.capset(ctypes.byref(header), sets)


def _small_files(size: int) -> Callable[[], object]:
    """A stand-in for a full disk: no file may grow beyond `size` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


_HELD: list[socket.socket] = []


def _take_port() -> None:
    _HELD.append(held := socket.socket())
    held.bind(("127.0.0.1", 0))
    held.listen()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(held.getsockname()[1]))
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")


def _train(*options: str) -> list[str]:
    return [*TRAIN, *options]


def _check(task: str) -> list[str]:
    return [*CHECK, f"{task}.py"]


SKIPPED = r"1 samples could not be read and were replaced \(3 allowed\)"
DET = _check("coco")
SEG = _check("seg")
CASES = [
    # pictures: skipped and counted
    Case("truncated JPEG", _jpeg_cut, TRAIN, SKIPPED, 0),
    Case("truncated PNG", _cut(PICTURE), TRAIN, SKIPPED, 0),
    Case("zero-byte file", _write(PICTURE, b""), TRAIN, SKIPPED, 0),
    Case("text named .png", _write(PICTURE, b"<html>404</html>"), TRAIN, SKIPPED, 0),
    Case("decompression bomb", _huge, TRAIN, SKIPPED, 0),
    Case("unreadable file", lambda: os.chmod(PICTURE, 0), TRAIN, SKIPPED, 0, without_rights),
    Case("dead link", lambda: (os.unlink(PICTURE), os.symlink("nowhere", PICTURE)), TRAIN, SKIPPED, 0),
    Case(
        "damaged, none allowed", _cut(PICTURE), _train("--cfg-options", "bad_samples.allowed=0"), r"disc/1\.png: cannot"
    ),
    Case(
        "more damaged than allowed",
        lambda: [_cut(f"cls/train/disc/{i}.png")() for i in range(5)],
        TRAIN,
        "5 of 12 pictures looked at cannot",
    ),
    Case("damaged in validation", _cut("cls/val/disc/1.png"), TRAIN, r"val/disc/1\.png: cannot be decoded"),
    # pictures: read
    Case("name that is not UTF-8", _write("cls/train/disc/\udce9.txt", b"x"), TRAIN, "trained in", 0),
    Case(
        "picture whose name is not UTF-8",
        lambda: os.rename(PICTURE, b"cls/train/disc/\xe9.png"),
        TRAIN,
        "trained in",
        0,
    ),
    Case("folder named as a picture", _folder(PICTURE), TRAIN, "trained in", 0),
    Case(
        "read-only data",
        lambda: [os.chmod(f, 0o555) for f, _, _ in os.walk("cls")],
        TRAIN,
        "trained in",
        0,
        without_rights,
    ),
    # class folders
    Case("no data folder", lambda: os.rename("cls", "other"), TRAIN, r"cls.*: no such (data )?folder"),
    Case("file for a folder", lambda: (os.rename("cls", "x"), _write("cls", b"")()), TRAIN, "cls"),
    Case(
        "class without pictures in both",
        lambda: [os.makedirs(f"cls/{s}/empty") for s in ("train", "val")],
        TRAIN,
        "classes",
    ),
    Case("class in training alone", lambda: os.makedirs("cls/train/third"), TRAIN, "3 classes"),
    Case("no pictures", lambda: [p.unlink() for p in Path("cls/train").rglob("*.png")], TRAIN, "no pictures"),
    # COCO
    Case("directory for a picture", _folder(COCO_PICTURE), DET, r"coco/2\.png"),
    Case("COCO picture cut", _cut(COCO_PICTURE), DET, r"coco/2\.png: cannot be decoded"),
    Case("JSON cut", _cut("coco/train.json"), DET, r"train\.json: not JSON"),
    Case("JSON of another shape", _write("coco/train.json", b"[1, 2]"), DET, r"train\.json"),
    Case("JSON nested without end", _write("coco/train.json", b"[" * 200_000), DET, r"train\.json: not JSON"),
    Case("JSON not UTF-8", _write("coco/train.json", b'{"images": "\xff\xfe"}'), DET, r"train\.json: not JSON"),
    Case("no annotations", _json(lambda c: c["annotations"].clear()), DET, r"train\.json"),
    Case("boxes of zero area", _every(bbox=[3, 3, 0, 0], area=0), DET, r"train\.json|left out"),
    Case("boxes outside", _every(bbox=[500, 500, 9, 9]), DET, r"train\.json|left out"),
    Case("box of text", _every(bbox="3 3 9 9"), DET, r"train\.json"),
    Case("box of NaN", _every(bbox=[float("nan")] * 4), DET, r"train\.json"),
    Case("category ids with holes", _json(_holes), DET, "train: 4 pictures", 0),
    Case("unknown category", _every(category_id=9), DET, r"category_id"),
    Case("duplicate picture ids", _json(lambda c: c["images"][1].update(id=0)), DET, r"train\.json"),
    Case("duplicate annotation ids", _every(id=1), DET, r"train\.json"),
    Case("masks of another size", _every(segmentation=dict(size=[8, 8], counts=[0, 64])), DET, r"train\.json"),
    Case("all filtered", _json(lambda c: [i.update(width=2, height=2) for i in c["images"]]), DET, r"coco/"),
    # label images
    Case("labels of another size", _labels(np.ones((9, 9), np.uint8)), SEG, r"labels/1\.png: is 9 x 9"),
    Case("labels out of range", _labels(np.full((SIDE, SIDE), 7, np.uint8)), SEG, r"labels/1\.png: has the label 7"),
    Case("labels in colours", _labels(np.zeros((SIDE, SIDE, 3), np.uint8)), SEG, r"labels/1\.png: has 3 channels"),
    Case("labels cut", _cut("seg/labels/1.png"), SEG, r"labels/1\.png: cannot be decoded"),
    Case("label missing", lambda: os.unlink("seg/labels/1.png"), SEG, r"labels"),
    # checkpoints
    Case(
        "checkpoint cut",
        lambda: (_weights(dict)(), _cut("weights.pth")()),
        ["test", "cls.py", "weights.pth"],
        "cut off",
    ),
    Case("checkpoint empty", _write("weights.pth", b""), ["test", "cls.py", "weights.pth"], "the file is empty"),
    Case("checkpoint is a folder", lambda: os.mkdir("weights.pth"), ["test", "cls.py", "weights.pth"], "a folder"),
    Case(
        "checkpoint of another arch",
        lambda: torch.save({"state_dict": {"conv": torch.ones(3)}}, "weights.pth"),
        ["test", "cls.py", "weights.pth"],
        "another model",
    ),
    Case("checkpoint with a renamed key", _weights(_renamed), ["test", "cls.py", "weights.pth"], "head.fc.wieght"),
    Case("checkpoint of other classes", _weights(_classes), ["test", "cls.py", "weights.pth"], "head.fc"),
    Case("checkpoint of NaN", _weights(_nan), _train("--load-from", "weights.pth"), "(?i)nan|not finite|non-finite"),
    # configs and the machine
    Case("config key misspelled", _config("cls.py", "test_cfg =", "tset_cfg ="), TRAIN, "tset_cfg"),
    Case("config value of another type", _config("cls.py", "batch_size=4", "batch_size='four'"), TRAIN, "batch_size"),
    Case("config not Python", _write("cls.py", b"model = dict("), TRAIN, r"cls\.py:1: not a config in Python"),
    Case("config not UTF-8", _write("cls.py", b"a = '\xff'"), TRAIN, r"cls\.py: not a config in Python"),
    Case("bad_samples of nonsense", _config("cls.py", "allowed=3", "allowed='x'"), TRAIN, "bad_samples"),
    Case("work directory is a file", _write("run", b""), TRAIN, "run: File exists"),
    Case(
        "no right to the work directory",
        lambda: (os.mkdir("run"), os.chmod("run", 0o555)),
        TRAIN,
        "run.*ermission",
        1,
        without_rights,
    ),
    Case(
        "disk full at the checkpoint",
        lambda: None,
        TRAIN,
        "no room|too large|File too large|full",
        1,
        _small_files(30_000),
    ),
    Case("port in use", lambda: None, _train("--launcher", "pytorch"), "in use", 1, _take_port),
]


class Result(NamedTuple):
    """How a case ended: `wrong` is empty if it is as it should be."""

    name: str
    said: str
    seconds: float
    wrong: str


def attempt(case: Case, folder: Path) -> Result:
    """Make the data in `folder`, damage them, and run the command in a process of its own."""
    folder.mkdir(parents=True)
    began = time.monotonic()
    # Not forked from here: this process may have computed, and the threads of that would be waited for.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    output, process = folder / "output.txt", context.Process(target=_run, args=(CASES.index(case), folder))
    process.start()
    process.join(LIMIT)
    if hung := process.is_alive():
        process.kill()
        process.join()
    text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    wrong = []
    if hung:
        wrong.append(f"not over after {LIMIT} s")
    if process.exitcode != case.status:
        wrong.append(f"status {process.exitcode}, not {case.status}")
    if "Traceback (most recent call last)" in text:
        wrong.append("a traceback")
    if re.search(case.says, text) is None:
        wrong.append(f"{case.says!r} is not said")
    if half := [path.name for path in folder.rglob(f"*{PART}")]:
        wrong.append(f"half written: {half}")
    listed = folder / "run" / FILE
    if case.says == SKIPPED and (not listed.exists() or len(listed.read_bytes().splitlines()) != 1):
        wrong.append("not listed")
    lines = [line for line in text.splitlines() if re.search(case.says, line)] or text.splitlines()[-3:]
    return Result(case.name, " ".join(lines), time.monotonic() - began, "; ".join(wrong))


def _run(number: int, folder: Path) -> None:
    """In the child, the case of that number: never returns."""
    case = CASES[number]
    with open(folder / "output.txt", "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = 70
    sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8", errors="replace", closefd=False) for n in (1, 2))
    try:
        os.chdir(folder)
        torch.set_num_threads(1)
        make_data()
        case.harm()
        case.before()
        status = bestiary(case.command)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def inputs(folder: Path, say: Callable[[str], None] = print) -> list[Result]:
    """All of them, below `folder`."""
    results = []
    for number, case in enumerate(CASES, 1):
        results.append(attempt(case, folder / str(number)))
        say(f"input {number}/{len(CASES)}: {case.name}: {results[-1].wrong or 'ok'}")
    return results
