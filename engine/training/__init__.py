"""Training that can be left and gone on with after any iteration, to the last bit."""

from .checkpoint_hook import WholeCheckpointHook
from .loops import ExactEpochLoop, ExactIterLoop, use_exact_loop
from .resuming import Resumable, find_resumable, look_at
from .stopping import Stopped

__all__ = [
    "ExactEpochLoop",
    "ExactIterLoop",
    "Resumable",
    "Stopped",
    "WholeCheckpointHook",
    "find_resumable",
    "look_at",
    "use_exact_loop",
]
