"""A log file a rank, in the folder of a run's logs; the screen belongs to the first rank."""

import faulthandler
import logging
from pathlib import Path

from mmengine.dist import get_rank, get_world_size
from mmengine.logging import MMLogger

_handlers: list[logging.FileHandler] = []


def log_every_rank(logger: MMLogger, folder: str | Path) -> Path | None:
    """Have what this rank logs in `folder`/rankN.log; returns the file, None in a job of one process."""
    if get_world_size() == 1:
        return None
    path = Path(folder) / f"rank{get_rank()}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, "a", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    faulthandler.enable(handler.stream)  # where in the program a crash happened
    _handlers.append(handler)
    return path


def to_rank_log(text: str) -> None:
    """Write to this rank's file alone, not to the screen."""
    for handler in _handlers:
        handler.handle(logging.LogRecord("mmengine", logging.ERROR, __file__, 0, text, None, None))
