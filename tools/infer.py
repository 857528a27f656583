"""Run a checkpoint on pictures: bestiary infer CONFIG CHECKPOINT PICTURES_OR_FOLDER... --out FOLDER"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from bestiary.backbones.reading import need_checkpoint
from bestiary.engine.configs import load_config
from bestiary.engine.drawing import Picture, draw, read_picture, sheet, write_picture
from bestiary.engine.launch import run_guarded
from bestiary.engine.predictions import TASKS, Prediction, Segmentation, prediction_of
from bestiary.engine.predictor import Predictor, ground_truth
from bestiary.errors import InputError
from bestiary.tools.options import add_options
from bestiary.tools.parsers import command_parser

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
SHEET_SIDE = 320  # pixels of the longer side of a picture on a sheet


def main(argv: list[str] | None = None) -> int:
    """Parse, predict, write; returns the exit status."""
    parser = command_parser("infer", __doc__)
    add_options(parser, launcher=False)
    parser.add_argument("checkpoint", help="weights: .pth or .safetensors")
    parser.add_argument("pictures", nargs="+", help="picture files, or folders of them")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="for drawn pictures and predictions.json")
    parser.add_argument("--score-thr", type=float, default=0.3, help="leave out objects with a lower score (0.3)")
    parser.add_argument("--top-k", type=int, default=5, help="classes that a classifier names (5)")
    parser.add_argument(
        "--sheet",
        type=int,
        default=0,
        metavar="N",
        help="also sheet.png of the first N pictures, with ground truth beside where the config's test data have it",
    )
    parser.add_argument("--device", help="cpu, cuda:0, ...; a GPU if there is one")
    args = parser.parse_args(argv)
    return run_guarded(lambda: infer(args), args.debug)


def infer(args: argparse.Namespace) -> None:
    """Predict as `args` say.

    Raises:
        InputError: a config, checkpoint or picture does not fit.
    """
    out = Path(args.out)
    need_checkpoint(args.checkpoint)
    pictures = find_pictures(args.pictures, out)
    cfg = load_config(args.config, args.cfg_options)
    predictor = Predictor(cfg, args.checkpoint, args.device)
    records: list[dict[str, Any]] = []
    shown: list[tuple[Path, Picture, Prediction]] = []
    began, task = time.monotonic(), None
    with Progress(console=Console(), disable=not sys.stdout.isatty()) as progress:
        for path, name in progress.track(pictures.items(), description="infer"):
            picture = read_picture(path)
            prediction = prediction_of(predictor(path), args.score_thr, args.top_k)
            task = TASKS[type(prediction)]
            write_picture(out / name, draw(picture, prediction, predictor.classes, predictor.colours))
            record = {"file": str(path), "height": picture.shape[0], "width": picture.shape[1], "drawn": name}
            if isinstance(prediction, Segmentation):
                record["labels"] = write_labels(out, name, prediction)
            records.append(record | prediction.record(predictor.classes))
            if len(shown) < args.sheet:
                shown.append((path, picture, prediction))
    seconds = time.monotonic() - began
    result = {
        "task": task,
        "config": args.config,
        "checkpoint": args.checkpoint,
        "classes": predictor.classes,
        "pictures": records,
    }
    (out / "predictions.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(
        f"{task}: {len(records)} pictures in {seconds:.1f} s, drawn into {out}; predictions: {out / 'predictions.json'}"
    )
    if shown:
        write_picture(out / "sheet.png", make_sheet(shown, ground_truth(cfg, [path for path, *_ in shown]), predictor))
        print(f"sheet: {out / 'sheet.png'}")


def find_pictures(given: list[str], out: Path) -> dict[Path, str]:
    """Picture file: name of the drawn one below `out`. Folders are searched to the bottom, in order of names.

    Raises:
        InputError: something is not there; a folder has no pictures; `out` is one of the folders.
    """
    found: list[tuple[Path, Path]] = []
    for path in map(Path, given):
        if path.is_dir():
            if path.resolve() == out.resolve():
                raise InputError(f"--out {out}: the pictures come from that folder; name another")
            inside = [
                file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES and out not in file.parents
            ]
            if not inside:
                raise InputError(f"{path}: no pictures in this folder; expected {', '.join(sorted(SUFFIXES))}")
            found += [(file, file.relative_to(path)) for file in inside]
        elif path.is_file():
            found.append((path, Path(path.name)))
        else:
            raise InputError(f"{path}: no such picture or folder")
    names: dict[Path, str] = {}
    taken = {"sheet.png"}
    for file, relative in found:
        if file in names:  # given by itself and in its folder
            continue
        stem, count = relative.with_suffix("").as_posix(), 1
        name = f"{stem}.png"
        while name in taken:  # a.jpg beside a.png, or the same name from two folders
            count += 1
            name = f"{stem}_{count}.png"
        taken.add(name)
        names[file] = name
    return names


def write_labels(out: Path, name: str, regions: Segmentation) -> str:
    """Write the class numbers as a PNG of 8 bits, 16 if there are more than 256 classes; returns its name."""
    wide = np.uint8 if regions.labels.max() < 256 else np.uint16
    write_picture(out / "labels" / name, regions.labels.astype(wide))
    return f"labels/{name}"


def make_sheet(
    shown: list[tuple[Path, Picture, Prediction]], truth: dict[Path, Prediction], predictor: Predictor
) -> Picture:
    """Predictions, each with its ground truth beside it if all pictures have one."""
    together = all(path in truth for path, *_ in shown)
    cells = []
    for path, picture, prediction in shown:
        panels = [truth[path], prediction] if together else [prediction]
        drawn = [draw(picture, panel, predictor.classes, predictor.colours, SHEET_SIDE) for panel in panels]
        cells.append((path.name, drawn))
    return sheet(cells, ["ground truth", "prediction"] if together else ["prediction"])


if __name__ == "__main__":
    sys.exit(main())
