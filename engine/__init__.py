"""What happens around a model: hooks, loops, the runner, scores, drawing. Importing it fills the registries."""

from . import (  # noqa: F401  (they register what configs name)
    bad_samples,
    drawing,
    ema,
    first_step,
    layer_decay,
    loggers,
    loops,
    metrics,
    nonfinite,
    optimizers,
    progress,
    report,
    results,
    training,
)
