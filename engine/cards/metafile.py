"""`model_cards/FAMILY.metafile.yml`: what a family has, in OpenMMLab's format, from the same source as its card."""

from typing import Any

import yaml

from .published import Published, published
from .source import Card, Score, Variant, measurements

HEADER = (
    "# Written by `bestiary card --write` from data/{family}.yml, data/measured.json and the configs' docstrings.\n"
)
# OpenMMLab's tools read these two keys; what stands there are multiply-adds, as papers have it.
OPERATIONS = "FLOPs"


def metafile(card: Card) -> str:
    """The file's text: a collection, a model a config, and a model for each of timm's weights with a score."""
    document = {
        "Collections": [collection(card)],
        "Models": [config_model(card, published(name)) for name in card.configs]
        + [weights_model(card, v, s) for v in card.variants for s in v.scores if s.weights],
    }
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return HEADER.format(family=card.family) + text


def collection(card: Card) -> dict[str, Any]:
    """The family: its papers, code and card."""
    first = card.papers[0]
    entry = {
        "Name": card.name,
        "Metadata": {"Training Data": list(card.datasets), "Architecture": [card.name]},
        "Paper": {"Title": first.title, "URL": f"https://arxiv.org/abs/{first.arxiv}"},
        "README": f"model_cards/{card.family}.md",
        "License": card.licence,
    }
    if card.code:
        entry["Code"] = {"URL": card.code}
    return entry


def config_model(card: Card, said: Published) -> dict[str, Any]:
    """A shipped config: its recipe and size as counted here, and the score that its source reports."""
    figures = measurements()["configs"].get(said.config, {})
    recipe = figures.get("recipe", {})
    metadata: dict[str, Any] = {"Training Data": said.dataset, "Parameters": figures.get("parameters")}
    if "multiply_adds" in figures:
        metadata[OPERATIONS] = figures["multiply_adds"]
        metadata["Picture"] = "{} x {}".format(*figures["size"])
    for key, name in {"epochs": "Epochs", "iterations": "Iterations", "batch": "Batch Size"}.items():
        if key in recipe:
            metadata[name] = recipe[key]
    entry = {
        "Name": said.config.rsplit("/", 1)[-1],
        "In Collection": card.name,
        "Config": f"configs/{said.config}.py",
        "Metadata": metadata,
    }
    if said.scores:
        metrics = dict(said.scores)
        if said.several_scales is not None:
            metrics["mIoU (ms+flip)"] = said.several_scales
        source = f"{said.source}; not measured here"
        result = {"Task": said.task, "Dataset": said.dataset, "Metrics": metrics, "Source": source}
        if said.condition:
            result["Condition"] = said.condition
        entry["Results"] = [result]
    return entry


def weights_model(card: Card, variant: Variant, score: Score) -> dict[str, Any]:
    """Weights that timm hosts, with timm's own score of them."""
    name = f"{variant.name}.{score.weights}"
    metadata: dict[str, Any] = {"Training Data": [*([score.data] if score.data else []), "imagenet-1k"]}
    if variant.measured:
        metadata["Parameters"] = variant.measured.parameters
        if variant.measured.size == score.size:
            metadata[OPERATIONS] = variant.measured.multiply_adds
    return {
        "Name": f"{name} at {score.size}",
        "In Collection": card.name,
        "Weights": f"https://huggingface.co/timm/{name}",
        "Metadata": {**metadata, "Picture": f"{score.size} x {score.size}"},
        "Results": [
            {
                "Task": "Image Classification",
                "Dataset": "ImageNet-1k",
                "Metrics": {"Top 1 Accuracy": score.top1},
                "Source": f"{card.sources[score.by]}; not measured here",
            }
        ],
    }
