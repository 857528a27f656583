"""What happens around a model: hooks, loops, the runner, scores, drawing. Importing it fills the registries."""

from . import drawing, first_step, loops, metrics, optimizers, progress, results, training  # noqa: F401  (they register what configs name)
