"""Run a checkpoint on pictures and videos: bestiary infer CONFIG CHECKPOINT PICTURES... --out FOLDER"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from bestiary.engine.api import BATCH, Model, load, weights_of
from bestiary.engine.asked import OBJECTS, Asked, class_numbers
from bestiary.engine.drawing import Picture, sheet, sheet_columns, write_picture
from bestiary.engine.launch import run_guarded
from bestiary.engine.picture_result import Result, coco_ids
from bestiary.engine.predictions import Segmentation
from bestiary.engine.predictor import Given, data_of_test, ground_truth
from bestiary.engine.progress import ItemProgress
from bestiary.engine.saving import write
from bestiary.engine.sources import VIDEOS, Found, find_files, names_below
from bestiary.engine.video import Video, VideoWriter, need_imageio
from bestiary.errors import InputError
from bestiary.tools.options import add_options, at_least_one
from bestiary.tools.parsers import command_parser

SHEET_SIDE = 320  # pixels of the longer side of a picture on a sheet
VIDEO_LINES = 2  # of names below the frames of a video


def main(argv: list[str] | None = None) -> int:
    """Parse, predict, write; returns the exit status."""
    parser = command_parser("infer", __doc__)
    add_options(parser, launcher=False)
    parser.add_argument(
        "checkpoint",
        help="weights: .pth or .safetensors, timm://NAME, or the work directory of a training, of which the best is "
        "taken, else the last",
    )
    parser.add_argument("pictures", nargs="+", help="pictures, videos, folders of them, patterns in quotes")
    parser.add_argument("--out", metavar="FOLDER", help="for drawn pictures and predictions.json")
    parser.add_argument("--coco", metavar="FILE", help="objects as COCO's results; all of them, if no --score is given")
    parser.add_argument("--labels", metavar="FOLDER", help="class numbers of a segmentor as PNGs (FOLDER of --out)")
    parser.add_argument(
        "--score",
        "--score-thr",
        type=float,
        metavar="S",
        help=f"leave out objects ({OBJECTS}), classes or pixels of which the model is less sure",
    )
    parser.add_argument("--classes", nargs="+", metavar="CLASS", help="only these, by name or number")
    parser.add_argument("--top-k", type=at_least_one, default=5, help="classes that a classifier names (5)")
    parser.add_argument(
        "--batch", type=at_least_one, default=BATCH, metavar="N", help=f"pictures at a time, of equal size ({BATCH})"
    )
    parser.add_argument("--tta", action="store_true", help="test-time augmentation: flips, scales, crops")
    parser.add_argument(
        "--sheet",
        type=int,
        default=0,
        metavar="N",
        help="also sheet.png of the first N pictures, with ground truth beside where the config's test data have it",
    )
    parser.add_argument("--sheet-width", type=at_least_one, metavar="PIXELS", help="of sheet.png (about 4 : 3)")
    parser.add_argument("--device", help="cpu, cuda:0, ...; a GPU if there is one")
    args = parser.parse_args(argv)
    return run_guarded(lambda: infer(args), args.debug)


def infer(args: argparse.Namespace) -> None:
    """Predict as `args` say.

    Raises:
        InputError: a config, checkpoint or target does not fit; or, when all else is done, a picture is not readable.
    """
    if args.out is None and args.coco is None and args.labels is None:
        raise InputError("name where the predictions go: --out FOLDER, --coco FILE or --labels FOLDER")
    weights_of(args.config, args.checkpoint)
    out = None if args.out is None else Path(args.out)
    files = find_files(args.pictures, out, videos=True)
    clips = [file.path for file in files if file.path.suffix.lower() in VIDEOS]
    if clips:
        need_imageio(clips[0])
        if out is None or args.coco is not None:
            raise InputError(f"{clips[0]}: a video is drawn into --out FOLDER; --coco takes pictures")
    for option, target in (("--out", args.out), ("--coco", args.coco), ("--labels", args.labels)):
        if target is not None:
            need_writable(option, Path(target) if option != "--coco" else Path(target).parent)
    model = load(
        args.config, args.checkpoint, device=args.device, tta=args.tta, options=args.cfg_options, safe=args.safe_config
    )
    if model.tta:
        print(model.tta)
    Run(args, model, files).run()


def need_writable(option: str, folder: Path) -> None:
    """Make `folder` and ask that a file can be written there, before anything is computed.

    Raises:
        InputError: it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{option} {folder}: cannot be written ({error.strerror}); name another") from error


class Run:
    """One call of the tool: what was found so far, and what could not be read."""

    def __init__(self, args: argparse.Namespace, model: Model, files: list[Found]) -> None:
        self.args, self.model, self.files = args, model, files
        self.out = None if args.out is None else Path(args.out)
        self.names = names_below(files, taken=["sheet.png"])
        self.labels = Path(args.labels) if args.labels else None if self.out is None else self.out / "labels"
        self.classes = None if args.classes is None else class_numbers(args.classes, model.classes)
        # COCO's precision is of all that a model finds; on pictures the unsure objects would only hide the others.
        score = 0.0 if args.coco is not None and args.score is None else args.score
        self.asked = Asked(score, self.classes, args.top_k)
        self.records: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []  # COCO's results
        self.shown: list[Result] = []
        self.unread: list[InputError] = []
        self.tasks: set[str] = set()
        if args.coco is not None:
            self.image_ids, self.category_ids = self._numbers()

    def run(self) -> None:
        """Predict, write, print.

        Raises:
            InputError: some pictures could not be read; the others are done.
        """
        began = time.monotonic()
        pictures = [file.path for file in self.files if file.path.suffix.lower() not in VIDEOS]
        with ItemProgress("infer", len(pictures), "pictures") as progress:
            for result in self.model.stream([Given(str(path)) for path in pictures], self.asked, self.args.batch):
                self._one(result)
                progress.done()
        for file in self.files:
            if file.path.suffix.lower() in VIDEOS:
                self.records.append(self._video(file.path))
        self._finish(time.monotonic() - began)

    def _one(self, result: Result | InputError) -> None:
        try:
            if isinstance(result, InputError):
                raise result
            result.picture  # noqa: B018  (the pipeline's reader may have taken what ours does not)
        except InputError as error:
            self.unread.append(error)
            return
        self.tasks.add(result.task)
        path = Path(result.name)
        name = self.names[path]
        if self.args.coco is not None:
            self.found += result.to_coco(self.image_ids[path], self.category_ids)
            result = result.above(OBJECTS if self.args.score is None else self.args.score)
        record = result.to_dict()
        if self.out is not None:
            write_picture(self.out / name, result.draw())
            record["drawn"] = name
        if isinstance(result.prediction, Segmentation):
            target = self.labels / name
            write_labels(target, result.prediction)
            inside = self.out is not None and target.is_relative_to(self.out)
            record["labels"] = str(target.relative_to(self.out) if inside else target)
        elif self.args.labels is not None:
            raise InputError(f"--labels: label PNGs are of a segmentor; this model's task is {result.task}")
        self.records.append(record)
        if len(self.shown) < self.args.sheet:
            self.shown.append(result)

    def _video(self, path: Path) -> dict[str, Any]:
        video, name = Video(path), self.names[path]
        lines = Path(name).with_suffix(".frames.jsonl")
        (self.out / name).parent.mkdir(parents=True, exist_ok=True)
        frames = (Given(f"{path}, frame {number}", frame) for number, frame in enumerate(video.frames()))
        count = 0
        with (
            VideoWriter(self.out / name, video.fps) as writer,
            (self.out / lines).open("w", encoding="utf-8") as file,
            ItemProgress("infer", video.count, "frames") as progress,
        ):
            for result in self.model.stream(frames, self.asked, self.args.batch):
                if isinstance(result, InputError):
                    raise result
                self.tasks.add(result.task)
                writer.write(result.draw(lines=VIDEO_LINES))
                content = {"frame": count, "seconds": round(count / video.fps, 3)}
                file.write(json.dumps(content | result.prediction.record(self.model.classes)) + "\n")
                count += 1
                progress.done()
        return {"file": str(path), "frames": count, "fps": video.fps, "drawn": name, "predictions": lines.as_posix()}

    def _finish(self, seconds: float) -> None:
        args, task = self.args, ", ".join(sorted(self.tasks)) or "nothing"
        said = [f"{task}: {_count(self.records)} in {seconds:.1f} s"]
        if self.out is not None:
            content = {
                "task": task,
                "config": args.config,
                "checkpoint": self.model.checkpoint,
                "classes": self.model.classes,
                "pictures": self.records,
            }
            write(self.out / "predictions.json", (json.dumps(content, indent=1) + "\n").encode())
            said.append(f"drawn into {self.out}; predictions: {self.out / 'predictions.json'}")
        print(", ".join(said))
        if args.coco is not None:
            self._write_coco(Path(args.coco))
        if args.labels is not None:
            print(f"label PNGs: {args.labels}")
        if self.shown and self.out is not None:
            truth = ground_truth(self.model.cfg, [Path(result.name) for result in self.shown])
            write_picture(self.out / "sheet.png", make_sheet(self.shown, truth, args.sheet_width))
            print(f"sheet: {self.out / 'sheet.png'}")
        if self.unread:
            others = f" (and {len(self.unread) - 1} more like it; " if len(self.unread) > 1 else " ("
            raise InputError(f"{self.unread[0]}{others}the other {len(self.records)} are done)")

    def _numbers(self) -> tuple[dict[Path, int], list[int]]:
        """Identifiers of the pictures and of the categories: the test data's where these have all the pictures."""
        paths = [file.path for file in self.files]
        dataset = data_of_test(self.model.cfg)
        self.known = False
        if dataset is not None and hasattr(dataset, "cat_ids"):
            infos = [dataset.get_data_info(index) for index in range(len(dataset))]
            numbers = {Path(info["img_path"]).resolve(): info["img_id"] for info in infos}
            same = list(dataset.metainfo.get("classes") or ()) == self.model.classes
            if same and all(path.resolve() in numbers for path in paths):
                self.known = True
                return {path: numbers[path.resolve()] for path in paths}, list(dataset.cat_ids)
        return {path: number for number, path in enumerate(paths, 1)}, coco_ids(self.model.classes)

    def _write_coco(self, path: Path) -> None:
        write(path, json.dumps(self.found).encode())
        if self.known:
            print(f"COCO's results: {path}, {len(self.found)} objects, numbered as the config's test data")
            return
        images = [
            dict(id=self.image_ids[Path(record["file"])], file_name=record["file"], height=record["height"])
            | dict(width=record["width"])
            for record in self.records
        ]
        names = zip(self.category_ids, self.model.classes, strict=True)
        categories = [dict(id=number, name=name) for number, name in names]
        beside = path.with_suffix(".images.json")
        write(beside, json.dumps(dict(images=images, annotations=[], categories=categories)).encode())
        print(f"COCO's results: {path}, {len(self.found)} objects; the pictures and classes they number: {beside}")


def _count(records: list[dict[str, Any]]) -> str:
    frames = [record["frames"] for record in records if "frames" in record]
    parts = []
    if pictures := len(records) - len(frames):
        parts.append(f"{pictures} pictures")
    if frames:
        parts.append(f"{sum(frames)} frames of {len(frames)} videos")
    return " and ".join(parts) or "0 pictures"


def write_labels(path: Path, regions: Segmentation) -> None:
    """Write the class numbers as a PNG of 8 bits, 16 if there are more than 256 classes."""
    wide = np.uint8 if regions.labels.max() < 256 else np.uint16
    write_picture(path, regions.labels.astype(wide))


def make_sheet(shown: list[Result], truth: dict[Path, Any], width: int | None = None) -> Picture:
    """Predictions, each with its ground truth beside it if all pictures have one.

    Args:
        shown: in order.
        truth: of the pictures, by path.
        width: of the sheet in pixels, at most; by default it is about 4 : 3.
    """
    together = all(Path(result.name) in truth for result in shown)
    captions = ["ground truth", "prediction"] if together else ["prediction"]
    side, columns = sheet_columns(width, len(captions), SHEET_SIDE)
    cells = []
    for result in shown:
        panels = [result.draw(side)]
        if together:
            panels.insert(0, result.like(truth[Path(result.name)]).draw(side))
        cells.append((Path(result.name).name, panels))
    return sheet(cells, captions, None if columns is None else min(columns, len(cells)))


if __name__ == "__main__":
    sys.exit(main())
