"""What is wrong with a config, all of it, before anything trains: keys, schedule, pipelines, model, weights, data."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mmengine.config import Config
from torch import nn

from ...errors import InputError
from ...inputs.check_data import Report
from ...inputs.checks import find_mistakes
from ..fit import check_class_weights, check_weights
from .keys import check_keys
from .model import check_model
from .pipeline import check_pipelines
from .schedule import check_schedule
from .weights import LEAST, Loaded, look_at_weights


@dataclass
class Checked:
    """Mistakes, each a line that names a key or file and what to do; and what is there."""

    mistakes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    data: dict[str, Report] = field(default_factory=dict)  # by split
    weights: list[Loaded] = field(default_factory=list)
    model: nn.Module | None = None  # on the meta device


def check_config(
    cfg: Config,
    splits: Sequence[str] = ("train", "val", "test"),
    with_data: bool = True,
    shortened: bool = False,
) -> Checked:
    """Look for every mistake in a config that can be seen without training.

    Args:
        cfg: as `load_config` gives it.
        splits: whose data are looked into.
        with_data: look for the files that the config names, weights and data.
        shortened: see `check_schedule`.
    """
    found = Checked()
    keys = check_keys(cfg)
    found.mistakes += [*keys, *check_schedule(cfg, shortened), *check_pipelines(cfg)]
    checks = [check_class_weights, *([check_weights] if with_data else [])]
    for check in checks:
        try:
            check(cfg.get("model"))
        except InputError as error:
            found.mistakes.append(str(error))
    if not any(mistake.startswith("model.") for mistake in keys):  # it would fail to build, of the same mistake
        mistakes, notes, found.model = check_model(cfg)
        found.mistakes += mistakes
        found.notes += notes
    if with_data:
        if found.model is not None:
            found.weights, mistakes, notes = look_at_weights(cfg.model, found.model, cfg.get("min_loaded", LEAST))
            said = any("no such checkpoint" in mistake for mistake in found.mistakes)
            found.mistakes += mistakes
            found.notes += [] if said else notes
        found.data, mistakes = find_mistakes(cfg, splits)
        found.mistakes += mistakes
    found.mistakes = list(dict.fromkeys(found.mistakes))
    return found


def refuse_mistakes(cfg: Config, splits: Sequence[str], shortened: bool = False) -> Checked:
    """As `check_config`, and an error that lists what was found.

    Raises:
        InputError: there are mistakes; each has a line.
    """
    found = check_config(cfg, splits, shortened=shortened)
    if len(found.mistakes) == 1:
        raise InputError(found.mistakes[0])
    if found.mistakes:
        raise InputError("\n  ".join([f"{len(found.mistakes)} mistakes:", *found.mistakes]))
    return found
