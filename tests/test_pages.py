"""The pages that people read: their commands run in their order on small data, their Python, their links.

README and docs/ are run step by step (`tests/shared/pages.py` says how); of the cards the Python.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pages
import pytest
from own_data import make_own
from shares import one_day_in, todays

from bestiary.engine.cards.check import check_links

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
OWN = "work_dirs/mask-rcnn_poolformer"
PLACES = {  # what stands for the capitals of a page
    "CONFIG": f"{OWN}/mask-rcnn_poolformer.py",
    "CHECKPOINT": f"{OWN}/epoch_1.pth",
    "PICTURES": "data/digits/coco/val2017",
    "FOLDER": "predicted",
    "ANNOTATIONS": "data/digits/coco/annotations/instances_val2017.json",
    "IMAGES": "data/digits/coco/val2017",
}


def run(page: Path, folder: Path) -> list[str]:
    """What was done of a page, a line a step."""
    make_own(folder)
    rows = ["image,class,xmin,ymin,xmax,ymax"]
    for number in range(10):
        rows.append(f"pics/p{number}.jpg,{'cat' if number % 2 else 'dog'},5,6,25,30")
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    words = [sys.executable, pages.__file__, str(page), str(folder), json.dumps(PLACES)]
    # One thread: the process forks after PyTorch has been imported.
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return done.stdout.splitlines()


def test_the_readme(tmp_path):
    done = run(README, tmp_path)
    gave = [line.split()[2] for line in done if line.startswith("gave bestiary")]
    assert {"list", "data", "train", "test", "infer", "check"} <= set(gave)
    assert (tmp_path / "predicted/sheet.png").is_file() and (tmp_path / "predicted/predictions.json").is_file()


RUN = [page for page in DOCS if page.name != "README.md"]


@pytest.mark.parametrize("page", todays(RUN, 6, ids=lambda page: page.stem))
def test_a_page_of_the_docs(page, tmp_path):
    done = run(page, tmp_path)
    assert len(done) == sum(
        len(pages.commands(content)) if language == "bash" else 1
        for language, content in pages.blocks(page.read_text(encoding="utf-8"))
        if language in ("bash", "python", "text")
    )


@pytest.mark.parametrize("page", [README, *DOCS, *sorted((ROOT / "model_cards").glob("*.md"))], ids=lambda p: p.stem)
def test_links_and_names_lead_somewhere(page):
    assert check_links(page) == []


def test_the_docs_are_all_listed():
    text = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    assert {page.name for page in RUN} == set(re.findall(r"\]\(([\w-]+\.md)\)", text))


def test_the_first_screen_has_two_commands_and_a_picture():
    first = README.read_text(encoding="utf-8").splitlines()[:40]
    assert any(line.startswith("tools/quickstart.sh") for line in first)
    assert any(line.startswith("tools/run_tests.sh") for line in first)
    (picture,) = re.findall(r"!\[.+\]\((docs/pictures/.+)\)", "\n".join(first))
    assert (ROOT / picture).stat().st_size < 150_000


def python_of(card):
    """The Python snippets of a model card."""
    return [content for language, content in pages.blocks(card.read_text(encoding="utf-8")) if language == "python"]


CARDS = [card for card in sorted((ROOT / "model_cards").glob("*.md")) if python_of(card)]


@pytest.mark.parametrize("part", range(2))
@one_day_in(4, 23)
def test_the_cards_python_runs(part):
    """Each snippet with names of its own; those of half the cards in one process, which imports torch once."""
    snippets = [(card.name, index, text) for card in CARDS[part::2] for index, text in enumerate(python_of(card))]
    program = "".join(f"print({name!r}, {index})\nexec({text!r}, {{}})\n" for name, index, text in snippets)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr
    assert all(f"{name} {index}" in done.stdout for name, index, _ in snippets)


def test_a_line_fits_with_gaps_and_broken_lines():
    assert pages.fits("error: no ... 'x'; did you", "error: no config\n   'x'; did you mean 'y'?")
    assert not pages.fits("error: no config 'y'; did you", "error: no config 'x'; did you mean 'y'?")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("```bash\nbestiary flops nowhere\n```\n", "no such config file"),
        ("```bash\nbestiary list 'shvit*'\n```\n```text\nshvit_s9\n```\n", "does not say"),
        ("```python\nraise ValueError('seen')\n```\n", "seen"),
        ("```bash\ntorchrun tools/train.py CONFIG --no-such-option\n```\n", "does not take"),
        ("```bash\ntools/no_such.sh 2\n```\n", "no_such.sh"),
    ],
)
def test_a_page_that_is_wrong_fails(tmp_path, text, words):
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match=words):
        pages.run_page(page, tmp_path, PLACES)
