"""Loading, converting and saving weights."""

from . import schemes
from .classifier import load_classifier
from .convert import convert_state_dict

__all__ = ["convert_state_dict", "load_classifier", "schemes"]
