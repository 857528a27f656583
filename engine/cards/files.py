"""The files of a card: what they should hold, and whether they do."""

from pathlib import Path

from .metafile import metafile
from .picture import render
from .render import write
from .source import CARDS, Card


def contents(card: Card) -> dict[Path, str]:
    """What the card's text, picture and metafile should hold, by the source of its numbers."""
    return {
        CARDS / "pictures" / f"{card.family}.svg": render(card.name, card.block),
        CARDS / f"{card.family}.metafile.yml": metafile(card),
        CARDS / f"{card.family}.md": write(card),
    }


def write_files(card: Card) -> list[Path]:
    """Bring the files up to date; returns those that changed."""
    changed = []
    for path, text in contents(card).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed
