"""Released data sets as their authors pack them: what belongs to each, and what of it is missing."""

from .layouts import LAYOUTS
from .parts import Finding, examine_all

__all__ = ["LAYOUTS", "Finding", "examine_all"]
