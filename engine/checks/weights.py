"""Pretrained weights against the model, before it trains: which keys would be loaded, stage by stage."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from ...backbones.base import Backbone
from ...backbones.pretrained import compare_weights, fit_pretrained, is_pretrained, share_of, unwrapped
from ...backbones.reading import read_checkpoint
from ...errors import InputError

LEAST = 0.5  # of a part's values, where nobody asked for a part; torchvision's and timm's own files give all of them


class Loaded(NamedTuple):
    """Of a part of the model: the config entry, the file, and keys loaded and in all by stage."""

    key: str
    source: str
    stages: dict[str, tuple[int, int]]


def words_of(loaded: Loaded) -> str:
    """How many keys are loaded, and those stages that get less than all of theirs, in a line."""
    here, there = (sum(counts[i] for counts in loaded.stages.values()) for i in (0, 1))
    short = [f"{stage} {some} of {every}" for stage, (some, every) in loaded.stages.items() if some < every]
    return f"{loaded.key}: {here} of {there} keys from {loaded.source}{': ' * bool(short)}{', '.join(short)}"


def look_at_weights(
    model_cfg: Mapping, model: nn.Module, least: float = LEAST
) -> tuple[list[Loaded], list[str], list[str]]:
    """Compare the local files that `init_cfg=dict(type='Pretrained')` names with the parts that would load them.

    mmengine takes what fits from a file, be it nothing, and tells its log. Addresses are not fetched.

    Args:
        model_cfg: `cfg.model`.
        model: built of it, on any device.
        least: share of a part's values, in 0..1, below which it is a mistake.

    Returns:
        What would be loaded; mistakes; notes.
    """
    found, mistakes, notes = [], [], []
    for key, part, init in _pretrained(model_cfg, model, "model"):
        source = init["checkpoint"]
        if "://" in source or not Path(source).is_file():
            notes.append(f"{key}: {source} is fetched when the training starts, and was not looked into")
            continue
        try:
            names = _fitting(part, init)
        except InputError as error:
            mistakes.append(f"{key}: {error}")
            continue
        found.append(Loaded(key, source, by_stage(part, names)))
        share = share_of(part, names)
        if share < least and not isinstance(part, Backbone):  # which looks to its own
            report = compare_weights(part, _weights(init))
            mistakes.append(
                f"{key}: {source}: {share:.0%} of the values of {type(part).__name__} would be loaded, less than "
                f"{least:.0%}: {report.words()}. Name the weights of this network, set prefix in init_cfg, or "
                "min_loaded at the top of the config"
            )
    return found, mistakes, notes


def by_stage(module: nn.Module, names: set[str]) -> dict[str, tuple[int, int]]:
    """Stage -> how many of its keys are in `names`, and how many it has; a stage is `stem`, `stages.1`, `layer3`."""
    here, there = Counter(), Counter()
    for name in module.state_dict():
        parts = name.split(".")
        stage = ".".join(parts[: 2 if parts[0] == "stages" else 1])
        there[stage] += 1
        here[stage] += name in names
    return {stage: (here[stage], count) for stage, count in there.items()}


def _pretrained(config: Any, module: nn.Module, key: str) -> Iterator[tuple[str, nn.Module, Mapping]]:
    """Entries with weights to load, and the modules that are built of them."""
    if isinstance(config, Mapping):
        if is_pretrained(init := config.get("init_cfg")) and isinstance(init.get("checkpoint"), str):
            yield f"{key}.init_cfg", module, init
        for name, child in config.items():
            if isinstance(part := getattr(module, name, None), nn.Module):
                yield from _pretrained(child, part, f"{key}.{name}")
    elif isinstance(config, list | tuple) and isinstance(module, nn.ModuleList):
        for index, (child, part) in enumerate(zip(config, module, strict=False)):
            yield from _pretrained(child, part, f"{key}.{index}")


def _fitting(part: nn.Module, init: Mapping) -> set[str]:
    if isinstance(part, Backbone):
        weights, _, _ = fit_pretrained(part, init)
        return set(weights)
    report, weights = compare_weights(part, given := _weights(init)), part.state_dict()
    return {name for name in weights if name in given and name not in report.misshaped}


def _weights(init: Mapping) -> dict[str, Tensor]:
    """The state dict as mmengine's `PretrainedInit` reads it."""
    weights = unwrapped(read_checkpoint(init["checkpoint"])["state_dict"])
    if prefix := init.get("prefix"):
        start = f"{prefix.rstrip('.')}."
        weights = {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}
    return weights
