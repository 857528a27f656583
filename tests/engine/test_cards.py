"""Model cards: one source, rendered and checked; each kind of mistake is found."""

import datetime
import json
import re
import shutil
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import timm
import yaml
from huggingface_hub import ModelCard
from PIL import ImageFont

from bestiary.backbones import list_backbones
from bestiary.backbones.names import FAMILIES
from bestiary.engine.cards import check, families, family_of, picture, published_top1, read_card
from bestiary.engine.cards.export import export
from bestiary.engine.cards.measure import count_backbone
from bestiary.engine.cards.published import docstring, published
from bestiary.engine.cards.source import CARDS, measurements, task_configs
from bestiary.engine.configs import find_config
from bestiary.errors import InputError
from bestiary.tools import card as card_tool

SHARE = 26  # of backbones; of configs a quarter as many: counted by default, others every day
DAY = datetime.date.today().toordinal()


def test_every_backbone_and_every_config_of_public_data_stands_in_one_card():
    assert check.check_coverage() == []
    assert len(list_backbones()) >= 158 and len(task_configs()) >= 257
    assert all(any(family_of(family.name_of(arch)) for arch in family.ARCHS) for family in FAMILIES)


@pytest.mark.parametrize("family", families())
def test_files_names_links_and_scores_fit(family):
    assert check.check_card(read_card(family)) == []


def test_the_check_counts_again():
    for family in families():
        card = read_card(family)
        few = type(card)(**{**card.__dict__, "variants": card.variants[DAY % SHARE :: SHARE], "configs": ()})
        assert check.check_figures(few) == []
    names = task_configs()[DAY % (4 * SHARE) :: 4 * SHARE]
    for name in names:
        card = next(read_card(family) for family in families() if name in read_card(family).configs)
        one = type(card)(**{**card.__dict__, "variants": (), "configs": (name,)})
        assert check.check_figures(one) == []


@pytest.mark.slow
@pytest.mark.parametrize("family", families())
def test_the_check_counts_all_again(family):
    assert check.check_figures(read_card(family)) == []


def test_counts_are_those_of_weights_that_exist():
    """By the plain way: a network with memory, timm's of the same name."""
    for name in ("poolformer_s12", "shvit_s1"):
        mine = count_backbone(read_card(family_of(name)).variant(name))
        theirs = sum(parameter.numel() for parameter in timm.create_model(name).parameters())
        assert mine["parameters"] == theirs


@pytest.mark.parametrize("family", families())
def test_the_hub_reads_the_front_matter(family):
    text = (CARDS / f"{family}.md").read_text(encoding="utf-8")
    card, source = ModelCard(text, ignore_metadata_errors=False), read_card(family)
    assert card.data.license == source.licence and card.data.library_name == "bestiary"
    scored = [variant for variant in source.variants if variant.scores]
    assert len(card.data.eval_results or []) == len(scored)
    for result in card.data.eval_results or []:
        assert 70 < result.metric_value < 91 and result.source_url.startswith("https://")


@pytest.mark.parametrize("family", families())
def test_the_metafile_says_what_the_configs_say(family):
    models = yaml.safe_load((CARDS / f"{family}.metafile.yml").read_text(encoding="utf-8"))
    (collection,) = models["Collections"]
    assert (CARDS.parent / collection["README"]).is_file()
    configs = [model for model in models["Models"] if "Config" in model]
    assert [model["Config"] for model in configs] == [f"configs/{name}.py" for name in read_card(family).configs]
    for model in models["Models"]:
        assert model["In Collection"] == collection["Name"] and model["Metadata"]["Parameters"] > 1e6
        if "Config" not in model:
            assert model["Weights"].rsplit("/", 1)[-1] in timm.list_pretrained()
            continue
        text = docstring(CARDS.parent / model["Config"])
        assert ("Results" in model) == ("Published:" in text)
        for metric, score in (model.get("Results") or [{"Metrics": {}}])[0]["Metrics"].items():
            word = {"Top 1 Accuracy": "top-1"}.get(metric, metric)
            stated = f"{score:g}" if word != "mIoU (ms+flip)" else f"{score:g}"
            assert re.search(rf"{re.escape(stated)}0*\b", text), (model["Name"], metric, score)


@pytest.mark.parametrize(
    ("text", "scores", "several"),
    [
        (
            "X (arXiv:1) on COCO. Published: box AP 45.0, mask AP 41.1; 47.8 M parameters (the paper).",
            (45.0, 41.1),
            None,
        ),
        ("X on ADE20K. Published: mIoU 49.8, 50.8 of several scales (the authors' README).", (49.8,), 50.8),
        ("X. Published: box AP 45.9 (47.3 in the authors' second run) (the authors' README).", (45.9,), None),
        ("X. Nobody has published this one's score; another's has box AP 40.0.", (), None),
    ],
)
def test_reads_what_was_published(tmp_path, monkeypatch, text, scores, several):
    file = tmp_path / "x_coco.py"
    file.write_text(f'"""{text}"""\n', encoding="utf-8")
    monkeypatch.setattr("bestiary.engine.cards.published.find_config", lambda name: file)
    found = published("x_coco")
    assert tuple(found.scores.values()) == scores and found.several_scales == several


def test_which_published_accuracy_a_name_has():
    assert published_top1("davit_tiny").top1 == 82.8  # the authors'
    assert published_top1("davit_tiny.msft_in1k").by == "timm"
    assert published_top1("convformer_s18").size == 224 and published_top1("convformer_s18").data is None
    assert published_top1("dinat_large").data == "imagenet-22k"  # the only one
    assert published_top1("mhsvm_tiny") is None and published_top1("resnet1001") is None


def test_a_wrong_figure_a_wrong_name_and_a_wrong_score_are_found(monkeypatch):
    card = read_card("shvit")
    figures = json.loads(json.dumps(measurements()))
    figures["backbones"]["shvit_s1"]["parameters"] += 1
    monkeypatch.setattr("bestiary.engine.cards.measure.measurements", lambda: figures)
    few = type(card)(**{**card.__dict__, "variants": card.variants[:1], "configs": ()})
    (line,) = check.check_figures(few)
    assert line.startswith("shvit_s1: measured.json has") and "counted now" in line

    first = card.variants[0]
    wrong = type(first)(**{**first.__dict__, "weights": ("in2k",), "parameters": 7.3})
    score = type(first.scores[0])(**{**first.scores[0].__dict__, "top1": 77.8})
    worse = type(first)(**{**wrong.__dict__, "scores": (score, *first.scores[1:])})
    lines = check.check_card(type(card)(**{**card.__dict__, "variants": (worse, *card.variants[1:])}))
    for part in (
        "has no weights shvit_s1.in2k",
        "published parameters, M: 7.3",
        "[77.8], configs/shvit",
        "not what its source",
    ):
        assert any(part in line for line in lines), (part, lines)


def test_an_edited_card_and_a_lost_marker_are_found(tmp_path, monkeypatch):
    shutil.copytree(CARDS, tmp_path / "model_cards")
    for module in ("files", "render", "check"):
        monkeypatch.setattr(f"bestiary.engine.cards.{module}.CARDS", tmp_path / "model_cards")
    (tmp_path / "configs").symlink_to(CARDS.parent / "configs")
    page = tmp_path / "model_cards/eca.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("| eca_resnet18 | 11.69 |", "| eca_resnet18 | 10.69 |"), encoding="utf-8")
    assert any("eca.md: is not what its source says" in line for line in check.check_card(read_card("eca")))
    page.write_text(text.replace("<!-- end speed -->", ""), encoding="utf-8")
    with pytest.raises(InputError, match="end speed"):
        check.check_card(read_card("eca"))


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("[a](nowhere.md)", "links to nowhere.md"),
        ("[a](#no-such-part)", "has no such heading"),
        ("![a](pictures/none.svg)", "pictures/none.svg"),
        ("[a](https://example)", "is not an address"),
        ("see arXiv:22041.3", "no number of a paper"),
        ("`configs/davit/davit-tinny_8xb128_in1k.py`", "which is not there"),
        ('checkpoint="timm://davit_tiny.msft_in2k"', "timm has no weights"),
        ("`bestiary train davit/davit-tinny_8xb128_in1k`", "no config davit/davit-tinny"),
        ("[a](#a-part) [b](https://arxiv.org/abs/2204.03645) `timm://davit_tiny.msft_in1k` arXiv:2204.03645", None),
    ],
)
def test_what_leads_nowhere_is_found(tmp_path, line, found):
    page = tmp_path / "page.md"
    page.write_text(f"# A part\n\n{line}\n", encoding="utf-8")
    lines = check.check_links(page)
    assert lines == [] if found is None else len(lines) == 1 and found in lines[0]


FONT = ImageFont.truetype(str(Path(__import__("matplotlib").get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 13)


@pytest.mark.parametrize("family", families())
def test_the_picture_has_texts_within_their_boxes_and_no_box_over_another(family):
    card = read_card(family)
    root = ET.fromstring(picture.render(card.name, card.block))
    name = "{http://www.w3.org/2000/svg}"
    wide, high = float(root.get("width")), float(root.get("height"))
    boxes = [
        [float(rect.get(key)) for key in ("x", "y", "width", "height")]
        for rect in root.iter(f"{name}rect")
        if rect.get("class") in ("box", "key")
    ]
    assert len(boxes) >= 7
    for index, (x, y, w, h) in enumerate(boxes):
        assert x >= 0 and y >= 0 and x + w <= wide and y + h <= high
        for other in boxes[:index]:
            apart = x + w <= other[0] or other[0] + other[2] <= x or y + h <= other[1] or other[1] + other[3] <= y
            assert apart, (boxes[index], other)
    texts = [(float(t.get("x")), float(t.get("y")), t.text) for t in root.iter(f"{name}text")]
    for x, y, shown in texts:  # DejaVu Sans is the widest of the usual fonts
        half = FONT.getlength(shown) / 2
        assert x - half >= 0 and x + half <= wide and y <= high, shown
        within = [box for box in boxes if box[0] <= x <= box[0] + box[2] and box[1] <= y <= box[1] + box[3]]
        assert all(box[0] <= x - half and x + half <= box[0] + box[2] for box in within), shown


def test_a_flow_of_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="residual, gate and split, not"):
        picture.flow_piece([{"loop": ["linear"]}])


def test_the_picture_is_told_in_words():
    block = {"panels": [{"title": "a block", "flow": [{"residual": ["norm", "*mixer"]}, {"gate": ["mean"]}]}]}
    assert (
        picture.words(block)
        == "a block: (added to its input: norm, then mixer), then (its input is multiplied by: mean)."
    )


def run_of(folder: Path) -> Path:
    """A work directory as `bestiary train` leaves it."""
    folder.mkdir()
    shutil.copy(find_config("heads/multi-label_poolformer_digits"), folder / "config.py")
    from bestiary.engine.configs import load_config

    load_config("quickstart/classifier_poolformer_digits").dump(folder / "config.py")
    (folder / "epoch_3.pth").write_bytes(b"")
    (folder / "last_checkpoint").write_text("somewhere/epoch_3.pth", encoding="utf-8")
    scores = {"metrics": {"accuracy/top1": 0.75, "accuracy/top5": None}, "split": "val", "epoch": 3}
    (folder / "metrics.json").write_text(json.dumps(scores), encoding="utf-8")
    return folder


def test_a_card_of_ones_own_model(tmp_path):
    card = ModelCard(export(run_of(tmp_path / "mine")).read_text(encoding="utf-8"), ignore_metadata_errors=False)
    assert card.data.model_name == "mine" and card.data.pipeline_tag == "image-classification"
    (result,) = card.data.eval_results
    assert result.metric_name == "accuracy/top1" and result.metric_value == 0.75
    assert "bestiary infer config.py epoch_3.pth" in card.text and "PoolFormer" in card.text


def test_a_folder_that_is_no_run_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no config \(\*\.py\), no checkpoint \(\*\.pth\), no metrics\.json"):
        export(tmp_path / "empty")
    with pytest.raises(InputError, match="no such folder"):
        export(tmp_path / "nowhere")
    with pytest.raises(InputError, match="cannot be written there"):
        export(run_of(tmp_path / "mine"), tmp_path / "nowhere" / "card.md")


def bestiary(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "bestiary.tools.cli", *words], capture_output=True, text=True)


def test_the_check_is_quiet_and_shows_how_far_it_is(monkeypatch, capsys):
    """A detector and a segmentor of mmdet's and mmseg's, which warn of scopes and of what they are to drop."""
    whole, shown = read_card("shvit"), []
    few = type(whole)(**{**whole.__dict__, "variants": whole.variants[:1], "configs": whole.configs[-3:]})
    monkeypatch.setattr("bestiary.engine.cards.check.check_card", lambda card: [])  # of whole cards
    monkeypatch.setattr("bestiary.tools.card.Steps.begin", lambda steps, name: shown.append((steps.count, name)))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        card_tool.check([few], quick=False)
    assert shown == [*enumerate([few.variants[0].name, *few.configs])] and not caught
    printed = capsys.readouterr()
    assert printed.out.startswith("shvit        fits\n") and "WARNING" not in printed.out + printed.err


def test_the_command():
    done = bestiary("card", "eca", "--check", "--quick")
    assert done.returncode == 0 and "eca          fits" in done.stdout and "nothing is fetched" in done.stdout
    done = bestiary("card", "davitt")
    assert done.returncode == 1 and "no card 'davitt' (did you mean 'davit'?)" in done.stderr
    assert "Traceback" not in done.stderr
