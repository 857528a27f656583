"""Loading, converting and saving weights."""

from . import schemes
from .classifier import build_classifier, load_classifier
from .convert import convert_state_dict

__all__ = ["build_classifier", "convert_state_dict", "load_classifier", "schemes"]
