"""Model cards: their numbers from one source a family, rendered, checked, exported."""

from .source import Card, Measured, Paper, Score, Variant, families, family_of, published_top1, read_card

__all__ = ["Card", "Measured", "Paper", "Score", "Variant", "families", "family_of", "published_top1", "read_card"]
