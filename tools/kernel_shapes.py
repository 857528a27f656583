"""The layers that neighborhood attention is timed on, by name: NAT and DiNAT at their usual resolutions."""

from bestiary.tools.kernel_contestants import Case

SIDES_224 = (56, 28, 14, 7)
HEADS = {"tiny": (2, 4, 8, 16), "small": (3, 6, 12, 24), "base": (4, 8, 16, 32), "large": (6, 12, 24, 48)}


def _layers(maps, heads, dilations, kernel_size: int = 7) -> list[Case]:
    """One layer for every stage and every dilation of it."""
    return [
        Case((side, side) if isinstance(side, int) else side, h, d, kernel_size)
        for side, h, several in zip(maps, heads, dilations, strict=True)
        for d in several
    ]


def _imagenet(dilations) -> list[Case]:
    return [case for heads in HEADS.values() for case in _layers(SIDES_224, heads, dilations)]


SETS: dict[str, list[Case]] = {
    "headline": [Case((56, 56), 4, 1), *(Case((28, 28), 8, d) for d in (1, 2, 4))],
    "nat": _imagenet(((1,),) * 4),
    "dinat": [
        *_imagenet(((1, 8), (1, 4), (1, 2), (1,))),
        *_layers((96, 48, 24, 12), HEADS["large"], ((1, 13), (1, 6), (1, 3), (1,))),
        *_layers((96, 48, 24, 12), HEADS["large"], ((1, 8), (1, 4), (1, 2), (1,)), kernel_size=11),
    ],
    "detection": _layers(
        ((200, 334), (100, 167), (50, 84), (25, 42)), HEADS["tiny"], ((1, 28), (1, 7, 14), (1, 3, 5, 7), (1, 3))
    ),
    "segmentation": [
        *_layers((128, 64, 32, 16), HEADS["base"], ((1, 16), (1, 4, 8), (1, 2, 3, 4), (1, 2))),
        *_layers((160, 80, 40, 20), HEADS["large"], ((1, 20), (1, 5, 10), (1, 2, 3, 4, 5), (1, 2))),
        *_layers((160, 80, 40, 20), HEADS["large"], ((1, 14), (1, 4, 7), (1, 2, 3), (1,)), kernel_size=11),
    ],
    "isotropic": [Case((14, 14), heads, d, channels=64) for heads in (6, 12) for d in (1, 2)],
}


def parse(text: str) -> list[Case]:
    """A set's name, or a layer as 28x28,h8,d2 with k7 and D32 unless they are given.

    Raises:
        ValueError: neither; the message says what fits.
    """
    if text in SETS:
        return SETS[text]
    first, *rest = text.split(",")
    values = {"h": 0, "d": 1, "k": 7, "D": 32}
    try:
        height, width = (int(part) for part in first.split("x"))
        for part in rest:
            values[part[0]] = int(part[1:]) if part[0] in values else int("none of h, d, k, D")
        if min(height, width, *values.values()) < 1:
            raise ValueError("all sizes count from 1, heads have to be given")
        if values["k"] * values["d"] > min(height, width):
            raise ValueError("kernel_size * dilation has to fit into the map")
    except (ValueError, IndexError) as error:
        raise ValueError(f"{text!r} is none of {', '.join(SETS)} and no layer as 28x28,h8,d2: {error}") from None
    return [Case((height, width), values["h"], values["d"], values["k"], values["D"])]
