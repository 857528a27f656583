"""How another code names and shapes the weights of a network."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Rule = tuple[str, str | Callable[[re.Match], str]]


def _never(key: str) -> bool:
    return False


@dataclass(frozen=True)
class KeyMap:
    """From our keys to theirs; both directions follow from it. Keys of ours are an `ImageClassifier`'s.

    Args:
        rename: our key -> theirs; several where they keep in parts what is one weight here; None for what they
            have not.
        pointwise: whether they keep this linear weight of ours as a 1 x 1 convolution.
        split: our key and weight -> theirs, as many as `rename` names; None: the weight as it is.
        join: our key and their weights -> ours; the reverse of `split`.
        skip: whether this key of theirs is no weight (an index table, say) and is passed over.
    """

    rename: Callable[[str], str | tuple[str, ...] | None]
    pointwise: Callable[[str], bool] = _never
    split: Callable[[str, Tensor], tuple[Tensor, ...]] | None = None
    join: Callable[..., Tensor] | None = None
    skip: Callable[[str], bool] = _never

    def theirs(self, key: str) -> tuple[str, ...]:
        """Their names of what is `key` here; none where they have not got it."""
        names = self.rename(key)
        return (names,) if isinstance(names, str) else names or ()

    def from_ours(self, key: str, value: Tensor) -> tuple[Tensor, ...]:
        """Their weights out of ours."""
        if self.pointwise(key):
            return (value[..., None, None],)
        return self.split(key, value) if self.split else (value,)

    def to_ours(self, key: str, *values: Tensor) -> Tensor:
        """Our weight out of theirs."""
        if self.pointwise(key):
            return values[0].flatten(1) if values[0].ndim == 4 else values[0]
        return self.join(key, *values) if self.join else values[0]

    def names(self, keys: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Their names of each of our keys that they have."""
        return {key: names for key in keys if (names := self.theirs(key))}

    def weights(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their state dict without what is no weight."""
        return {key: value for key, value in state_dict.items() if not self.skip(key)}

    def read(self, names: Mapping[str, tuple[str, ...]], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Our weights by key, those of which all of their parts are given."""
        return {
            key: self.to_ours(key, *(given[name] for name in theirs))
            for key, theirs in names.items()
            if all(name in given for name in theirs)
        }

    def write(self, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their state dict out of ours; what they have no place for is left out."""
        converted: dict[str, Tensor] = {}
        for key, value in ours.items():
            if not (names := self.theirs(key)):
                continue
            for name, part in zip(names, self.from_ours(key, value), strict=True):
                # Where several of ours have one name there, they are its rows.
                converted[name] = torch.cat([converted[name], part]) if name in converted else part
        return converted


def matching(pattern: str) -> Callable[[str], bool]:
    """Whether a key contains what the pattern describes."""
    found = re.compile(pattern)
    return lambda key: found.search(key) is not None


def renaming(rules: Sequence[Rule], absent: str | None = None) -> Callable[[str], str | None]:
    """A `rename` from substitutions, applied one after the other.

    Args:
        rules: pattern and replacement, as for `re.sub`; patterns that begin with ^ stand for a key's beginning.
        absent: a pattern of our keys that they have not.
    """
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    missing = re.compile(absent) if absent else None

    def rename(key: str) -> str | None:
        if missing and missing.search(key):
            return None
        for pattern, replacement in compiled:
            key = pattern.sub(replacement, key)
        return key

    return rename
