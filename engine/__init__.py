"""What happens around a model: hooks, loops, the runner, scores, drawing. Importing it fills the registries."""

from . import (  # noqa: F401  (they register what configs name)
    drawing,
    first_step,
    loggers,
    loops,
    metrics,
    optimizers,
    progress,
    results,
)
