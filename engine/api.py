"""A trained model in three lines:

model = bestiary.load("quickstart/mask_rcnn_poolformer_digits", "work_dirs/quickstart/detector")
result = model("picture.jpg")
result.save("drawn.png")
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..backbones.reading import is_address, need_checkpoint
from ..errors import InputError
from .asked import Asked, class_numbers
from .auto_data import wants_data
from .configs import find_config, load_config, shipped_configs
from .picture_result import Result
from .predictor import Given, Predictor
from .results import checkpoints_of
from .sources import Source, one_picture, pictures_of

BATCH = 8
EVERYTHING = Asked()
MASKS_AS_QUERIES = ("MaskFormerHead", "Mask2FormerHead")  # mmseg's heads whose maps of classes are no logits


class Model:
    """A trained classifier, detector or segmentor; `load` makes one.

    Attributes:
        classes: names, by class number.
        cfg: the whole config.
        checkpoint: what its weights were read from.
        tta: in words, what test-time augmentation does; empty without.
    """

    def __init__(self, cfg: Config, checkpoint: str, device: str | None = None, tta: bool = False) -> None:
        self.cfg, self.checkpoint = cfg, checkpoint
        self.predictor = Predictor(cfg, checkpoint, device, tta)
        self.classes, self.tta = self.predictor.classes, self.predictor.tta

    def __repr__(self) -> str:
        kind = type(self.predictor.model).__name__
        return f"Model({kind}, {len(self.classes)} classes, {self.checkpoint}, {self.predictor.device})"

    def __call__(
        self,
        pictures: Source,
        *,
        score: float | None = None,
        classes: Sequence[str | int] | None = None,
        top_k: int = 5,
        batch: int = BATCH,
    ) -> Result | list[Result]:
        """Predict on a picture, or on several.

        Args:
            pictures: see `pictures_of`: a path, folder or pattern, a PIL picture, an array in RGB, a tensor, a list.
            score: the least score, see `Asked`; 0.3 of an object if None.
            classes: names or numbers of those that are wanted.
            top_k: classes that a classifier names.
            batch: pictures at a time; only those that the model sees equally large share one, so that the results are
                those of one by one.

        Returns:
            A `Result` of one picture; a list of them for a folder, a pattern, a list or a batch.

        Raises:
            InputError: a picture is not there or cannot be decoded; there is no such class.
        """
        asked = Asked(score, None if classes is None else class_numbers(classes, self.classes), top_k)
        found = []
        for result in self.stream(pictures_of(pictures), asked, batch):
            if isinstance(result, InputError):
                raise result
            found.append(result)
        return found[0] if one_picture(pictures) else found

    def stream(
        self, pictures: Iterable[Given], asked: Asked = EVERYTHING, batch: int = BATCH
    ) -> Iterator[Result | InputError]:
        """A result a picture, in order, or why it cannot be read; only some batches are in memory at a time."""
        if batch < 1:
            raise InputError(f"batch: {batch} pictures at a time; expected a whole number from 1 on")
        if asked.score is not None:
            self._need_probabilities()
        for given, sample in self.predictor.samples(pictures, batch):
            if isinstance(sample, InputError):
                yield sample
                continue
            prediction = asked.of(sample, len(self.classes))
            yield Result(given, prediction, self.classes, self.predictor.colours)

    def _need_probabilities(self) -> None:
        """Ask that a segmentor gives probabilities of pixels, which a least score is compared with.

        Raises:
            InputError: it does not.
        """
        model = self.predictor.model
        head = getattr(model.module if self.tta else model, "decode_head", None)
        if head is not None and self.tta:
            raise InputError("score: test-time augmentation leaves no probabilities of pixels; leave one of them out")
        if type(head).__name__ in MASKS_AS_QUERIES:
            raise InputError(
                f"score: {type(head).__name__} gives sums of masks, no probabilities of pixels; leave it out"
            )


def load(
    name: str | Path,
    checkpoint: str | Path | None = None,
    *,
    device: str | None = None,
    tta: bool = False,
    options: dict[str, Any] | None = None,
    safe: bool = False,
) -> Model:
    """A trained model, ready to be called on pictures.

    Args:
        name: a config that ships, as 'quickstart/mask_rcnn_poolformer_digits', or a part of its name that no other
            begins with; the path of a config; or the work directory of a training, which has both config and weights.
        checkpoint: a path, an address ('timm://davit_tiny.msft_in1k', 'https://...', 'hf-hub:owner/name'), or a work
            directory, of which the best is taken, else the last. Left out where `name` is a work directory.
        device: 'cpu', 'cuda:0', ...; a GPU if there is one.
        tta: test-time augmentation: slower, a little better.
        options: changes of the config, as `--cfg-options`: {'model.test_cfg.rcnn.score_thr': 0.01}.
        safe: refuse a config that does more than name values, see `load_config`.

    Raises:
        InputError: no such config (the nearest are named) or checkpoint; the checkpoint is of another model.
    """
    weights = weights_of(name, checkpoint)
    path = config_named(str(name))
    cfg = load_config(str(path), options, safe)
    if wants_data(cfg):
        raise InputError(
            f"{name}: its classes come from the data that it is trained on: name the work directory of the training, "
            "or the config in it"
        )
    return Model(cfg, weights, device, tta)


def weights_of(name: str | Path, checkpoint: str | Path | None) -> str:
    """The file or address of the weights.

    Raises:
        InputError: there is none; a work directory has none.
    """
    if checkpoint is None:
        if not Path(name).is_dir():
            raise InputError(
                f"{name}: name its checkpoint, too: a path, the work directory of a training, or timm://NAME; only "
                "initial values would be loaded without"
            )
        checkpoint = name
    if is_address(str(checkpoint)):
        return str(checkpoint)
    if Path(checkpoint).is_dir():
        found = checkpoints_of(checkpoint)
        if not found:
            raise InputError(f"{checkpoint}: a folder, not a checkpoint, and no training left one there; name a file")
        return str(found.get("best", found.get("last")))
    need_checkpoint(str(checkpoint))
    return str(checkpoint)


def config_named(name: str) -> Path:
    """The file of a config: a path, the work directory of a training, a name that ships, or the beginning of one.

    The beginning may leave the folder out, and have `_` for `-`: 'mask_rcnn_poolformer', 'davit_tiny'. As it is written
    it counts before it is read so.

    Raises:
        InputError: there is none, or several begin so; they or the nearest are named.
    """
    given = Path(name)
    if given.is_dir():
        files = sorted(given.glob("*.py"), key=lambda path: path.stat().st_mtime)
        if not files:
            raise InputError(f"{name}: a folder without the config of a training; name a config")
        return files[-1]
    # Those that fit themselves to data need the data, so nothing can be loaded by their names.
    shipped = shipped_configs()
    names = [known for known in shipped if not known.startswith("mydata/")]
    if not (given.is_file() or given.suffix == ".py" or name in shipped or given.is_absolute()):
        for same in (str, _folded):
            leaves = {known: same(known.rsplit("/", 1)[-1]) for known in names}
            exact = [known for known, leaf in leaves.items() if leaf == same(name)]
            begins = [known for known, leaf in leaves.items() if leaf.startswith(same(name))]
            for found in (exact, begins):
                if len(found) == 1:
                    return find_config(found[0])
                if found:
                    raise InputError(f"{name}: {len(found)} configs are called so: {_some(found)}; give more of it")
        if not given.with_name(given.name + ".py").is_file():
            folded = {_folded(known.rsplit("/", 1)[-1]): known for known in names}
            if near := difflib.get_close_matches(_folded(given.name), folded, n=3, cutoff=0.5):
                hint = " or ".join(folded[one] for one in near)
                raise InputError(f"{name}: no such config; did you mean {hint}? `bestiary.load` takes a path, too")
    return find_config(name)


def _folded(name: str) -> str:
    return name.lower().replace("-", "_")


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
