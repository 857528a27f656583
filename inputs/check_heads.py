"""How many classes the heads of a model config are for, and whether these are the data's."""

from collections.abc import Iterator, Mapping, Sequence

from ..errors import InputError

# Heads with a class each of the data; RPN and class-agnostic heads are not among them.
_HEADS = ("bbox_head", "mask_head", "segm_head", "mask_iou_head", "point_head", "glbctx_head")
_TOP = (*_HEADS, "decode_head", "auxiliary_head", "head")
_PANOPTIC = ("panoptic_head", "panoptic_fusion_head", "semantic_head")
_OTHER_CLASSES = ("STDCHead",)  # its classes are edges, not the data's


def _each(config: Mapping, name: str, key: str) -> Iterator[tuple[str, Mapping]]:
    """The head of that name, or each of a list of them, with dotted keys."""
    head = config.get(name)
    if isinstance(head, Mapping):
        yield f"{key}.{name}", head
    elif isinstance(head, Sequence) and not isinstance(head, str):
        yield from ((f"{key}.{name}.{i}", part) for i, part in enumerate(head) if isinstance(part, Mapping))


def head_classes(model: Mapping, key: str = "model") -> dict[str, int]:
    """Dotted config key -> number of classes, for each head of a model that says so.

    Heads that tell things from stuff give `<head>.num_things_classes + num_stuff_classes`. A model that reads class
    names as text, as Grounding DINO and SAN, has none.
    """
    if "language_model" in model or "text_encoder" in model:
        return {}
    found: dict[str, int] = {}
    for name in ("detector", "segmentor"):  # of trackers and semi-supervised wrappers
        if isinstance(model.get(name), Mapping):
            found |= head_classes(model[name], f"{key}.{name}")
    places = [(key, model, _TOP)]
    places += [(roi_key, roi_head, _HEADS) for roi_key, roi_head in _each(model, "roi_head", key)]
    for place, config, names in places:
        for name in names:
            for head_key, head in _each(config, name, place):
                if isinstance(head.get("num_classes"), int) and head.get("type") not in _OTHER_CLASSES:
                    found[f"{head_key}.num_classes"] = head["num_classes"]
    for name in _PANOPTIC:
        for head_key, head in _each(model, name, key):
            things, stuff = head.get("num_things_classes"), head.get("num_stuff_classes")
            if isinstance(things, int) and isinstance(stuff, int):
                found[f"{head_key}.num_things_classes + num_stuff_classes"] = things + stuff
    return found


def check_heads(model: Mapping | None, classes: Sequence[str], things: Sequence[str] | None, where: str) -> None:
    """Ask that heads and data have as many classes.

    Args:
        model: config of the model.
        classes: all classes of the data.
        things: those that boxes are for, if not all, as in panoptic data.
        where: the config entry that the classes are from.

    Raises:
        InputError: a head is for another number; names every such head and the number to set.
    """
    wrong = {}
    for key, number in head_classes(model or {}).items():
        boxes = things is not None and "num_stuff_classes" not in key and ".decode_head" not in key
        wanted = len(things) if boxes else len(classes)
        if number != wanted:
            wrong[key] = (number, wanted)
    if wrong:
        given = ", ".join(f"{key} = {number}" for key, (number, _) in wrong.items())
        remedy = ", ".join(f"{key}={wanted}" for key, (_, wanted) in wrong.items())
        raise InputError(
            f"{given}: the model is not for the {len(classes)} classes of {where}; set {remedy} (in the config, or by "
            "--cfg-options), or correct the classes"
        )
