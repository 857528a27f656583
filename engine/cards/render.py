"""The generated parts of a card: its front matter, and what stands between its markers."""

import json
import re
import textwrap
from collections.abc import Callable
from typing import Any

import yaml

from ...errors import InputError
from ...kernels import backends
from .published import Published, published
from .source import CARDS, Card, Score, Variant, measurements, published_top1

BEGIN, END = "<!-- begin {}: written by `bestiary card --write` -->", "<!-- end {} -->"
TIMM_RESULTS = "https://github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv"
KERNEL_CARDS = {
    "neighborhood_attention": "kernels.md",
    "bi_level_routing_attention": "bi_level_routing.md",
    "selective_scan": "selective_scan.md",
    "scan_routes": "selective_scan.md",
}
LEARNT_FROM = {  # data set: what is known of weights that were trained on it
    "imagenet-1k": "**ImageNet-1k** is 1.28 million pictures found on the web by search words, 45 % of them from "
    "the USA (arXiv:1711.08536); nearly 120 of its 1,000 classes are breeds of dogs. Many pictures show several "
    "objects, of which one is named; some 6 % of the validation set's labels are wrong (arXiv:2103.14749), so that the "
    "last points of top-1 say little. People are in it who were not asked (arXiv:2006.16923).",
    "imagenet-22k": "**ImageNet-22k** adds 21,000 classes of WordNet. Many of those that name persons are offensive or "
    "cannot be seen in a picture (arXiv:1912.07726).",
    "imagenet-21k": "**ImageNet-21k** adds 20,000 classes of WordNet. Many of those that name persons are offensive or "
    "cannot be seen in a picture (arXiv:1912.07726).",
    "COCO": "**COCO** is photographs from Flickr with 80 classes; larger groups of objects carry one label for the "
    "crowd. Recognition that is learnt from such data does worse in households with low incomes, in Asia and Africa "
    "above all (arXiv:1906.02659).",
    "ADE20K": "**ADE20K** was labelled by one person: consistent, and with one person's blind spots. Where its "
    "pictures were taken is not known here.",
}
NOBODY = (
    "Nobody has measured here how these weights do on groups of people, regions or cameras. Whoever decides about "
    "people by them has to do that first, on data of the place where they will be used."
)


def write(card: Card) -> str:
    """The card's file with its generated parts renewed.

    Raises:
        InputError: a marker is missing, or there is no file.
    """
    path = CARDS / f"{card.family}.md"
    if not path.is_file():
        raise InputError(f"{path}: no such card; write it with a title and the markers {', '.join(PARTS)}")
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"\A---\n.*?\n---\n", lambda _: front_matter(card), text, flags=re.DOTALL)
    for name, part in PARTS.items():
        begin, end = BEGIN.format(name), END.format(name)
        if text.count(begin) != 1 or text.count(end) != 1:
            raise InputError(f"{path}: it must have {begin!r} and {end!r} once each")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n{wrapped(part(card).strip())}\n{end}{rest.split(end)[1]}"
    return text


def wrapped(text: str) -> str:
    """Paragraphs broken at 120 columns; tables, pictures and code as they are."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        paragraph
        if paragraph.startswith(("|", "!", "```"))
        else textwrap.fill(paragraph, 120, break_long_words=False, break_on_hyphens=False)
        for paragraph in paragraphs
    )


def front_matter(card: Card) -> str:
    """The YAML block in front, as the Hugging Face hub reads it."""
    head = {
        "license": card.licence,
        "library_name": "bestiary",
        "pipeline_tag": "image-classification",
        "datasets": list(card.datasets),
        "metrics": ["accuracy"],
        "tags": [*card.tags, *(f"arxiv:{paper.arxiv}" for paper in card.papers)],
    }
    lines = ["---", "# Written by `bestiary card --write`, as is what stands between the markers below."]
    lines += [f"{key}: {_flow(value)}" for key, value in head.items()]
    index = [(variant.name, published_top1(variant.name)) for variant in card.variants]
    if any(score for _, score in index):
        lines.append("model-index:")
    for name, score in index:
        if score:
            lines += [f"- name: {name}", f"  results: [{_flow(_result(card, score))}]"]
    return "\n".join([*lines, "---", ""])


def _result(card: Card, score: Score) -> dict[str, Any]:
    return {
        "task": {"type": "image-classification"},
        "dataset": {"type": "imagenet-1k", "name": "ImageNet-1k, validation"},
        "metrics": [{"type": "accuracy", "value": score.top1, "name": "top-1"}],
        "source": {"name": card.sources[score.by], "url": TIMM_RESULTS if score.by == "timm" else card.code},
    }


def _flow(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000, sort_keys=False).removesuffix("\n...\n").strip()


def picture(card: Card) -> str:
    """The picture, with its description for who does not see it."""
    return f"![The stages and the block of {card.name}](pictures/{card.family}.svg)"


def variants(card: Card) -> str:
    """The table of backbones: counted here beside published, and accuracies with who published them."""
    by = {score.by for variant in card.variants for score in variant.scores}
    head = ["name", "parameters (M)", "published", "multiply-adds (G)", "published"]
    head += [f"top-1, {source}" for source in ("authors", "timm") if source in by]
    rows = [head, ["---"] * len(head)]
    for variant in card.variants:
        counted = variant.measured
        at = "" if variant.size == 224 else f" at {variant.size}"
        row = [
            variant.name,
            f"{counted.parameters / 1e6:.2f}" if counted else "",
            _figure(variant.parameters),
            f"{operations(counted.multiply_adds)}{at}" if counted else "",
            _figure(variant.multiply_adds),
        ]
        row += [
            ", ".join(_score(variant, s) for s in variant.scores if s.by == b) for b in ("authors", "timm") if b in by
        ]
        rows.append(row)
    lines = [f"| {' | '.join(row)} |" for row in rows]
    heads = sorted({v.classes for v in card.variants if v.classes not in (0, 1000)})
    notes = [
        "Parameters and multiply-adds are counted here on the meta device, at 224 x 224 where nothing else is said, "
    ]
    notes.append(
        "with a head of 1,000 classes" if not heads else "with a head of 1,000 classes where none is named below"
    )
    for count in heads:
        notes.append(f", {count:,} for {', '.join(v.name for v in card.variants if v.classes == count)}")
    if bare := [v.name for v in card.variants if v.classes == 0]:
        notes.append(f", and without the last linear layer for {', '.join(bare)}")
    notes.append(". No top-1 was measured here: that needs ImageNet.")
    sources = [f"{'Published figures' if key == 'authors' else 'timm'}: {said}." for key, said in card.sources.items()]
    return "\n".join([*lines, "", "".join(notes), "", " ".join(sources)])


def operations(count: int) -> str:
    """Multiply-adds in thousands of millions, with three places below one of them."""
    return f"{count / 1e9:.2f}" if count >= 1e9 else f"{count / 1e9:.3f}"


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _score(variant: Variant, score: Score) -> str:
    words = [f"{score.top1:g}" if score.by == "timm" else f"{score.top1}"]
    if score.size != variant.size:
        words.append(f"at {score.size}")
    if score.data:
        words.append(f"after {score.data}")
    if score.weights:
        words.append(f"(`{score.weights}`)")
    return " ".join(words)


def dense(card: Card) -> str:
    """The table of detectors and segmentors that ship as configs."""
    said = [published(name) for name in card.configs]
    rows = [one for one in said if one.task != "Image Classification"]
    if not rows:
        return "No detector or segmentor of a public data set ships with it; `configs/` has some on the bundled digits."
    lines = [
        "| config | data | score | parameters (M) | published | multiply-adds (G) | published |",
        "| --- " * 7 + "|",
    ]
    for one in rows:
        figures = measurements()["configs"].get(one.config, {})
        score = ", ".join(f"{name} {value}" for name, value in one.scores.items()) or "none published"
        score += f", {one.several_scales} of several scales" if one.several_scales is not None else ""
        score += f" ({one.condition})" if one.condition else ""
        counted = f"{figures['multiply_adds'] / 1e9:.0f}" if "multiply_adds" in figures else ""
        size = "{} x {}".format(*figures["size"]) if "size" in figures else ""
        row = [
            f"[{one.config.split('/')[1]}](../configs/{one.config}.py)",
            one.dataset,
            score,
            f"{figures['parameters'] / 1e6:.1f}" if figures else "",
            _figure(one.parameters),
            f"{counted} at {size}" if counted else "",
            _figure(one.multiply_adds),
        ]
        lines.append(f"| {' | '.join(row)} |")
    sources = sorted({one.source for one in rows if one.source})
    note = f"Scores and published figures: {'; '.join(sources)}. " if sources else ""
    return "\n".join([*lines, "", f"{note}No score was measured here. `bestiary train CONFIG` trains one."])


def recipes(card: Card) -> str:
    """The recipes of the configs, one a row, with the configs that share it."""
    groups: dict[tuple, list[Published]] = {}
    for name in card.configs:
        if recipe := measurements()["configs"].get(name, {}).get("recipe"):
            said = published(name)
            groups.setdefault((said.dataset, json.dumps(recipe)), []).append(said)
    lines = ["| data | optimizer | rate | weight decay | batch | length | configs |", "| --- " * 7 + "|"]
    for (dataset, packed), said in groups.items():
        recipe = json.loads(packed)
        length = f"{recipe['epochs']} epochs" if "epochs" in recipe else f"{recipe['iterations']:,} iterations"
        names = [one.config for one in said]
        links = ", ".join(f"[{name.split('/')[1]}](../configs/{name}.py)" for name in names[:3])
        links += f" and {len(names) - 3} more" if len(names) > 3 else ""
        row = [
            dataset,
            recipe["optimizer"],
            f"{recipe['lr']:g}",
            f"{recipe['weight_decay']:g}",
            str(recipe["batch"]),
            length,
            links,
        ]
        lines.append(f"| {' | '.join(row)} |")
    note = "Read from the configs. The rate belongs to the batch: `--auto-scale-lr` scales it to yours."
    return "\n".join([*lines, "", note])


def speed(card: Card) -> str:
    """Backends of the family's operators, and what the committed records measured."""
    parts = []
    for operator in card.operators:
        names = ", ".join(f"`{backend.name}`" for backend in backends(operator))
        parts.append(
            f"[`{operator}`]({KERNEL_CARDS[operator]}) has the backends {names}, the fastest that can run is taken."
        )
    if not card.operators:
        parts.append("The family calls none of `bestiary.kernels`: PyTorch's own operators do all of it.")
    if rows := _timings(card):
        lines = ["| name | inference, pictures/s | training, pictures/s | training, MB |", "| --- | --- | --- | --- |"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        record = _record()
        machine, versions, given = record["machine"], record["versions"], record["arguments"]
        parts.append(
            f"Measured on {given['threads']} threads of {machine['cpu']} (family {machine['family']}), PyTorch "
            f"{versions['torch']}, eager, float32, batch {given['batch']} at {given['size']} x {given['size']}, "
            "medians (`backbones/cpu_epyc-zen4_eager.json`; beside timm's and compiled: [backbones.md](backbones.md)):"
        )
        parts.append("\n".join(lines))
    else:
        parts.append(
            "No record of a whole backbone's speed is committed. `bestiary benchmark` measures on your machine."
        )
    return "\n\n".join(parts)


def _record() -> dict[str, Any]:
    return json.loads((CARDS / "backbones" / "cpu_epyc-zen4_eager.json").read_text(encoding="utf-8"))


def _timings(card: Card) -> list[list[str]]:
    rows = []
    for result in _record()["results"]:
        if result["name"] in {variant.name for variant in card.variants}:
            passes = [f"{result['passes'][kind]['ours']['median']:.1f}" for kind in ("inference", "training")]
            rows.append([result["name"], *passes, f"{result['memory']['ours'] / 1e6:.0f}"])
    return rows


def biases(card: Card) -> str:
    """What is known of the data that weights of this family were trained on."""
    if not any(variant.tags for variant in card.variants) and not any(v.scores for v in card.variants):
        return "No weights of this family were released: what it has learnt is yours to look at. " + NOBODY
    sets = [*card.datasets, *dict.fromkeys(published(name).dataset for name in card.configs)]
    said = [LEARNT_FROM[name] for name in sets if name in LEARNT_FROM]
    return "\n\n".join([*said, NOBODY])


def citation(card: Card) -> str:
    """BibTeX of the papers."""
    entries = []
    for paper in card.papers:
        kind = "inproceedings" if paper.venue else "article"
        where = {"booktitle": paper.venue} if paper.venue else {"journal": paper.journal or f"arXiv:{paper.arxiv}"}
        fields = {"title": paper.title, "author": paper.authors, **where, "year": paper.year, "eprint": paper.arxiv}
        body = "".join(f"  {key} = {{{value}}},\n" for key, value in fields.items())
        entries.append(f"@{kind}{{{paper.key},\n{body}}}")
    return "```bibtex\n" + "\n".join(entries) + "\n```"


PARTS: dict[str, Callable[[Card], str]] = {
    "picture": picture,
    "variants": variants,
    "dense": dense,
    "recipes": recipes,
    "speed": speed,
    "biases": biases,
    "citation": citation,
}
