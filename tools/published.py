"""Published accuracies, as the model cards give them."""

import functools
import re
from pathlib import Path
from typing import NamedTuple

import bestiary.model_cards

CARDS = Path(bestiary.model_cards.__file__).parent
TOP1 = "ImageNet top-1"


class Accuracy(NamedTuple):
    """A score in percent."""

    value: float
    metric: str  # what was scored; '' where a person gave the number alone
    source: str  # whose figure it is
    size: int | None = None  # side of the pictures that it was scored on, where it is told


@functools.cache
def published() -> dict[str, Accuracy]:
    """Top-1 by the name of a backbone, of every card's column 'top-1 reported'."""
    found: dict[str, Accuracy] = {}
    for card in sorted(CARDS.glob("*.md")):
        rows = [line.strip().strip("|").split("|") for line in card.read_text(encoding="utf-8").splitlines() if "|" in line]
        column = None
        for cells in rows:
            cells = [cell.strip() for cell in cells]
            if "top-1 reported" in cells:
                column = cells.index("top-1 reported")
            elif column is not None and len(cells) > column and (accuracy := reading(cells[column])):
                found[cells[0]] = accuracy
    return found


def reading(text: str) -> Accuracy | None:
    """`79.4 at 256 x 256 (authors), 80.2 with distillation` -> 79.4 of the authors at 256; None for words alone."""
    match = re.match(r"(\d+(?:\.\d+)?)(?: at (\d+)(?: x \d+)?)?(?: \(([^)]*)\))?", text)
    if match is None:
        return None
    value, size, source = match.groups()
    return Accuracy(float(value), TOP1, source or "card", None if size is None else int(size))
