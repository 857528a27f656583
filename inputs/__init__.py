"""What comes in: the bundled digits, readers, transforms, checks. Importing it fills the registries."""

from . import contrast, held_out, image_folder, multi_label, samplers, tar_shards, transforms  # noqa: F401  (they register what configs name)
from .checks import check_inputs
from .class_sample import ClassSample
from .digits import make_digits

__all__ = ["ClassSample", "check_inputs", "make_digits"]
