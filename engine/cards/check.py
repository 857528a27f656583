"""Everything about cards that can be looked up without a network: figures, names, links, coverage."""

import functools
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import timm

from ...backbones import list_backbones
from ..configs import shipped_configs
from .files import contents
from .measure import count_backbone, count_config, disagreements
from .published import published
from .source import CARDS, Card, families, measurements, read_card, task_configs

Counted = Callable[[str, Callable[[], dict]], dict]

ROOT = CARDS.parent
SLACK = 0.05  # of a published size: beyond it a figure was copied wrongly, or counts another network
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
WEB = re.compile(r"https?://[\w.-]+\.[a-z]{2,}(:\d+)?(/[^\s<>\"]*)?$")


def check_coverage() -> list[str]:
    """Backbones and configs that no card has, or more than one; a line each."""
    cards = [read_card(family) for family in families()]
    mistakes = []
    for what, wanted, found in (
        ("backbone", list_backbones(), [variant.name for card in cards for variant in card.variants]),
        ("config", task_configs(), [name for card in cards for name in card.configs]),
    ):
        counts = Counter(found)
        mistakes += [f"{what} {name}: in no card" for name in wanted if not counts[name]]
        mistakes += [f"{what} {name}: in {count} cards" for name, count in counts.items() if count > 1]
        mistakes += [
            f"{what} {name}: in a card, and there is none of the name" for name in sorted({*found} - {*wanted})
        ]
    return mistakes


def check_figures(card: Card, counted: Counted = lambda name, count: count()) -> list[str]:
    """Figures of the card's backbones and configs that are no longer what is counted; a line each.

    Args:
        card: whose figures.
        counted: given a name and what counts it, the figures; to show how far it is.
    """

    def backbone(name: str) -> dict:
        return counted(name, lambda: count_backbone(card.variant(name)))

    def config(name: str) -> dict:
        return counted(name, lambda: count_config(name))

    names = [variant.name for variant in card.variants]
    return disagreements("backbones", names, backbone) + disagreements("configs", card.configs, config)


def check_card(card: Card) -> list[str]:
    """What is wrong with a card's files, names, links and published figures; nothing is counted. A line each."""
    mistakes = []
    for path, text in contents(card).items():
        if not path.is_file():
            mistakes.append(f"{path}: is not there: `bestiary card {card.family} --write`")
        elif path.read_text(encoding="utf-8") != text:
            mistakes.append(f"{path}: is not what its source says: `bestiary card {card.family} --write`")
    known = weights_of_timm()
    for variant in card.variants:
        mistakes += [
            f"{card.family}: timm {timm.__version__} has no weights {t}" for t in variant.tags if t not in known
        ]
        mistakes += [
            f"{card.family}: {variant.name} names no source {score.by!r}"
            for score in variant.scores
            if score.by not in card.sources
        ]
        if counted := variant.measured:
            pairs = (("parameters, M", variant.parameters, counted.parameters / 1e6),) + (
                ("multiply-adds, G", variant.multiply_adds, counted.multiply_adds / 1e9),
            )
            for what, said, here in pairs:
                if said is not None and abs(said - here) > SLACK * here:
                    mistakes.append(f"{card.family}: {variant.name}: published {what}: {said}, counted {here:.2f}")
    return mistakes + check_scores(card) + check_links(CARDS / f"{card.family}.md")


def check_scores(card: Card) -> list[str]:
    """Accuracies in the data file that differ from those in the docstrings of the configs that train the same."""
    mistakes = []
    for name in card.configs:
        figures, said = measurements()["configs"].get(name, {}), published(name)
        if "backbone" not in figures or not said.scores:
            continue
        variant = card.variant(figures["backbone"])
        before = bool(re.search(r"in2[12]k-pre", name))
        fits = [
            s for s in variant.scores if s.by == "authors" and s.size == figures["size"][0] and bool(s.data) == before
        ]
        if [score.top1 for score in fits] != [said.scores["Top 1 Accuracy"]]:
            mistakes.append(
                f"{card.family}: {variant.name} has {[score.top1 for score in fits]}, "
                f"configs/{name}.py {said.scores['Top 1 Accuracy']}"
            )
    return mistakes


def check_links(page: Path) -> list[str]:
    """Links, pictures, anchors, paths and names of weights in a page of Markdown that lead nowhere; a line each.

    Addresses of other sites are looked at for their form alone.
    """
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    mistakes = []
    for target in LINK.findall(prose):
        if target.startswith(("http:", "https:")):
            if not WEB.match(target):
                mistakes.append(f"{page.name}: {target!r} is not an address")
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            mistakes.append(f"{page.name}: links to {target}, which is not there")
        elif anchor and anchor not in anchors(file):
            mistakes.append(f"{page.name}: links to {target}; {file.name} has no such heading")
    mistakes += [
        f"{page.name}: arXiv:{n} is no number of a paper"
        for n in re.findall(r"arXiv:([\w.]+\w)", text)
        if not _paper(n)
    ]
    for path in re.findall(r"(?:^|[\s`(])((?:configs|tests|tools|docs|model_cards)/[\w./-]+\.\w+)", text):
        if not (ROOT / path).exists():
            mistakes.append(f"{page.name}: names {path}, which is not there")
    known = weights_of_timm()
    mistakes += [
        f"{page.name}: timm has no weights {n}" for n in re.findall(r"timm://(\w+\.\w+)", text) if n not in known
    ]
    shipped = {*shipped_configs()}
    for name in re.findall(r"bestiary (?:train|test|flops|check) ([a-z_]+/[\w-]+)\b(?!/|\.)", text):
        if name not in shipped:
            mistakes.append(f"{page.name}: no config {name} ships")
    return mistakes


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@functools.cache
def weights_of_timm() -> frozenset[str]:
    """Names of all weights that the installed timm knows: `davit_tiny.msft_in1k`."""
    return frozenset(timm.list_pretrained())


def _paper(number: str) -> bool:
    return bool(re.fullmatch(r"\d{4}\.\d{4,5}(v\d+)?", number))
