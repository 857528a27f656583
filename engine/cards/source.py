"""The one source of a family's numbers: `model_cards/data/FAMILY.yml`, and `measured.json` beside it.

The YAML is written by people: names, papers, published figures with who published them. What this code measures
(parameters, multiply-adds) is written by `bestiary card --write` to the JSON. What was published of a whole detector or
segmentor stands in its config's docstring (`published.py`). Cards and metafiles are rendered from these three.
"""

import difflib
import fnmatch
import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ...errors import InputError
from ..configs import shipped_configs

CARDS = Path(__file__).resolve().parents[2] / "model_cards"
DATA = CARDS / "data"
MEASURED = DATA / "measured.json"


@dataclass(frozen=True)
class Score:
    """A published top-1 accuracy of ImageNet-1k's validation set, in percent.

    Attributes:
        top1: percent.
        by: who published it, a key of the card's `sources`: 'authors' or 'timm'.
        size: side of the test pictures, in pixels.
        weights: timm's tag of the weights, if timm has them: 'msft_in1k'.
        data: what the network was trained on first, where not ImageNet-1k alone: 'imagenet-22k'.
    """

    top1: float
    by: str
    size: int
    weights: str | None = None
    data: str | None = None


@dataclass(frozen=True)
class Measured:
    """What this code counts: parameters that train, and multiply-adds of one square picture of `size` pixels a side."""

    parameters: int
    multiply_adds: int
    size: int


@dataclass(frozen=True)
class Variant:
    """A backbone of `list_backbones()`.

    Attributes:
        name: as `list_backbones()` has it.
        size: side of the pictures at which it is counted, in pixels.
        parameters: published, in millions. multiply_adds: published, in thousands of millions.
        classes: of the head that is counted; 0 counts the backbone's head as far as it is released, see the card.
        scores: published accuracies; empty if there are none.
        weights: timm's tags that are no ImageNet-1k classifier, and so have no score.
        measured: what this code counts; None before the first `bestiary card --write`.
    """

    name: str
    size: int = 224
    parameters: float | None = None
    multiply_adds: float | None = None
    classes: int = 1000
    scores: tuple[Score, ...] = ()
    weights: tuple[str, ...] = ()
    measured: Measured | None = None

    @property
    def tags(self) -> list[str]:
        """timm's names of its weights: `davit_tiny.msft_in1k`."""
        tags = [score.weights for score in self.scores if score.weights] + list(self.weights)
        return [f"{self.name}.{tag}" for tag in dict.fromkeys(tags)]


@dataclass(frozen=True)
class Paper:
    """What is cited. `authors` in BibTeX's form; `venue` is a booktitle, or None for a preprint."""

    key: str
    title: str
    authors: str
    year: int
    arxiv: str
    venue: str | None = None
    journal: str | None = None


@dataclass(frozen=True)
class Card:
    """A family's card, of which `model_cards/FAMILY.md` and `FAMILY.metafile.yml` are rendered."""

    family: str
    name: str  # as the paper writes it
    licence: str  # of the authors' code and weights, an identifier of SPDX in small letters
    papers: tuple[Paper, ...]
    datasets: tuple[str, ...]
    tags: tuple[str, ...]
    sources: dict[str, str]  # who published a figure: 'authors' -> the sentence that names them
    variants: tuple[Variant, ...]
    configs: tuple[str, ...]  # the shipped configs of ImageNet, COCO, ADE20K and so on, by name
    code: str | None = None  # the authors' repository
    block: dict[str, Any] = field(default_factory=dict)  # the picture's description, see `picture.py`
    operators: tuple[str, ...] = ()  # of `bestiary.kernels`, which the family calls

    def variant(self, name: str) -> Variant:
        """The variant of a backbone's name.

        Raises:
            KeyError: the card has none of that name.
        """
        return {variant.name: variant for variant in self.variants}[name]


def families() -> list[str]:
    """Names of the cards, sorted: biformer, davit, ..."""
    return sorted(path.stem for path in DATA.glob("*.yml"))


@functools.cache
def read_card(family: str) -> Card:
    """A family's card.

    Args:
        family: as `families()` has it.

    Raises:
        InputError: no such card, or its data file has a key that cards do not have.
    """
    if family not in families():
        near = difflib.get_close_matches(family, families(), n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(f"no card {family!r}{hint}; there are {', '.join(families())}")
    path = DATA / f"{family}.yml"
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    patterns = raw.pop("configs")
    try:
        return Card(
            family=family,
            papers=tuple(Paper(**paper) for paper in raw.pop("papers")),
            variants=tuple(_variant(entry) for entry in raw.pop("variants")),
            configs=tuple(name for name in task_configs() if any(fnmatch.fnmatch(name, p) for p in patterns)),
            **{key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()},
        )
    except (TypeError, KeyError) as error:
        raise InputError(f"{path}: {error}") from error


def family_of(name: str) -> str | None:
    """The card that a backbone stands in, or None: `family_of('dinat_mini')` is 'nat'."""
    return next((card for card in families() if name in {variant.name for variant in read_card(card).variants}), None)


def published_top1(name: str) -> Score | None:
    """The published accuracy of a backbone of ours or of its weights: `davit_tiny`, or `davit_tiny.msft_in1k`.

    A bare name has the authors' score after ImageNet-1k alone at the size at which the card counts, or at the size that
    is nearest; where the authors have none, timm's. A name with a tag has timm's score of those weights.
    """
    name, _, tag = name.partition(".")
    if (family := family_of(name)) is None:
        return None
    variant = read_card(family).variant(name)
    if tag:
        return next((score for score in variant.scores if score.weights == tag and score.by == "timm"), None)
    best = sorted(variant.scores, key=lambda s: (s.data is not None, s.by != "authors", abs(s.size - variant.size)))
    return best[0] if best else None


def task_configs() -> list[str]:
    """The shipped configs of public data sets: not those of the bundled digits, of a person's data, and ablations."""
    return [
        name
        for name in shipped_configs()
        if not name.endswith("_digits") and name.split("/")[0] not in ("quickstart", "ablations", "mydata")
    ]


@functools.cache
def measurements() -> dict[str, dict[str, Any]]:
    """What `measured.json` holds: 'backbones' and 'configs', each name -> its figures."""
    if not MEASURED.is_file():
        return {"backbones": {}, "configs": {}}
    return json.loads(MEASURED.read_text(encoding="utf-8"))


def _variant(entry: dict[str, Any]) -> Variant:
    size = entry.get("size", 224)
    scores = tuple(Score(**{"size": size, **score}) for score in entry.pop("scores", ()))
    figures = measurements()["backbones"].get(entry["name"])
    measured = Measured(**figures) if figures else None
    return Variant(**{**entry, "scores": scores, "weights": tuple(entry.get("weights", ())), "measured": measured})
