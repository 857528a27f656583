"""Models that are built to be looked at, without the log of how."""

import contextlib
import warnings
from collections.abc import Iterator

from mmengine.logging import MMLogger


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """mmengine's log below errors left out, and warnings: on scopes, initial values, what a library is to drop."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
