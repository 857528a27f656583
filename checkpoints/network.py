"""One network's weights under everyone's names."""

from collections.abc import Callable, Container, Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.base import Backbone
from ..backbones.pretrained import LoadReport, compare_weights
from ..errors import InputError
from ..heads import make_classifier
from . import biformer, davit, focalnet, maxvit, metaformer, mhs_vm, mobilenet_v2, nat, resnet, shvit
from .key_map import KeyMap

# A family's NAME: from one of its backbones to the key map of each layout; maps may hang on the arch.
KEY_MAPS: dict[str, Callable[[Backbone], dict[str, KeyMap]]] = {
    "biformer": biformer.biformer,
    "davit": davit.davit,
    "focalnet": focalnet.focalnet,
    "maxvit": maxvit.maxvit,
    "metaformer": metaformer.baselines,
    "identityformer": metaformer.baselines,
    "randformer": metaformer.baselines,
    "poolformerv2": metaformer.baselines,
    "convformer": metaformer.baselines,
    "caformer": metaformer.baselines,
    "poolformer": metaformer.poolformer,
    "mhsvm": mhs_vm.mhs_vm,
    "mobilenetv2": mobilenet_v2.mobilenet_v2,
    "resnet": resnet.resnet,
    "shvit": shvit.shvit,
    "nat": nat.nat,
    "dinat": nat.nat,
    "dinat_s": nat.dinat_s,
    "nat_isotropic": nat.isotropic,
    "dinat_isotropic": nat.isotropic,
    "vitrpb": nat.isotropic,
}


class Network:
    """Which network weights are of: a family, an arch of it, keys of the arch that differ."""

    def __init__(self, family: type[Backbone], arch: str | Mapping[str, Any], changes: Mapping[str, Any]) -> None:
        self.family, self.arch, self.changes = family, arch, changes

    def __str__(self) -> str:
        return self.family.name_of(self.arch) if isinstance(self.arch, str) else f"this {self.family.__name__}"

    @cached_property
    def backbone(self) -> Backbone:
        """One without storage, with the output norms of all stages."""
        norms = {"out_norm": True} if "out_norm" in self.family.DEFAULTS else {}
        with torch.device("meta"):
            return self.family(self.arch, **{**self.changes, **norms})

    @cached_property
    def key_maps(self) -> dict[str, KeyMap]:
        """The key map of each layout but our own."""
        maps = KEY_MAPS.get(self.family.NAME)
        return maps(self.backbone) if maps else {}

    @cached_property
    def own_keys(self) -> list[str]:
        """Every key that an `ImageClassifier` with this backbone can have."""
        named = self.arch if isinstance(self.arch, str) else next(iter(self.family.ARCHS))
        with torch.device("meta"):
            head = make_classifier(self.family.name_of(named)).head
        return [f"backbone.{key}" for key in self.backbone.state_dict()] + [f"head.{key}" for key in head.state_dict()]

    def to_ours(self, state_dict: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
        """Weights in a layout's names and shapes -> keys backbone.*, head.*.

        Raises:
            InputError: a key that the layout does not have.
        """
        if source == "bestiary":
            ours = {  # a backbone by itself has no prefix
                key if key.startswith(("backbone.", "head.")) else f"backbone.{key}": value
                for key, value in state_dict.items()
            }
            self._check_known(ours, self.own_keys, source)
            return ours
        key_map = self.key_maps[source]
        names, given = key_map.names(self.own_keys), key_map.weights(state_dict)
        self._check_known(given, {name for theirs in names.values() for name in theirs}, source)
        return key_map.read(names, given)

    def from_ours(self, state_dict: Mapping[str, Tensor], target: str) -> dict[str, Tensor]:
        """Keys backbone.*, head.* -> a layout's names and shapes; what the layout has not is left out."""
        return self.key_maps[target].write(state_dict)

    def readings(self, state_dict: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """The weights under our keys, as each layout reads them that has all their names.

        Raises:
            InputError: they are of no known layout.
        """
        found, refusals = {}, []
        for layout in ("bestiary", *self.key_maps):
            try:
                found[layout] = self.to_ours(state_dict, layout)
            except InputError as refusal:
                refusals.append(str(refusal))
        if not found:
            raise InputError(f"not weights of {self} in any known layout: {'; '.join(refusals)}")
        return found

    def recognise(
        self, state_dict: Mapping[str, Tensor], model: nn.Module, part: str = ""
    ) -> tuple[dict[str, Tensor], LoadReport]:
        """Weights in whatever layout they come, under the names of `model` and at its sizes.

        Args:
            state_dict: of a classifier or a backbone, ours, timm's or the authors'.
            model: an `ImageClassifier`, or its backbone, and then `part` is 'backbone'.

        Returns:
            The weights, and how they fit: where layouts share their names, of the one that fits best.

        Raises:
            InputError: they are of no known layout.
        """
        found = []
        start = f"{part}." if part else ""
        backbone = model if part else model.backbone
        for ours in self.readings(state_dict).values():
            body = {key.removeprefix("backbone."): value for key, value in ours.items() if key.startswith("backbone.")}
            body = {f"backbone.{key}": value for key, value in backbone.adapt(body).items()}
            ours = {**body, **{key: value for key, value in ours.items() if key.startswith("head.")}}
            ours = {key.removeprefix(start): value for key, value in ours.items() if key.startswith(start)}
            found.append((ours, compare_weights(model, ours)))
        return min(found, key=lambda pair: len(pair[1]))

    def _check_known(self, keys: Iterable[str], known: Container[str], source: str) -> None:
        keys = list(keys)
        if unknown := [key for key in keys if key not in known]:
            raise InputError(
                f"{len(unknown)} of {len(keys)} keys are not {source} keys of {self}: "
                f"{', '.join(unknown[:5])}; name the backbone and the source that the weights are of"
            )
