"""Backbones side by side: what a comparison measures, whom it takes, what it writes and draws."""

import csv
import json
import random

import pytest
import torch
from matplotlib.transforms import Bbox

from bestiary import build_backbone, build_classifier
from bestiary.engine.complexity import count_forward, count_multiply_adds
from bestiary.tools import cli, compare, compare_tables, contenders, scatter
from bestiary.tools.compare_tables import pareto

SMALL = ["--size", "32", "--batch", "2", "--threads", "1", "--seconds", "0.01"]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """The record of one run: one of ours, one of timm's whose accuracy nobody has told."""
    out = tmp_path_factory.mktemp("compare") / "record.json"
    words = ["compare", "shvit_s1", "timm:resnet18", "--memory", "--accuracy", "shvit_s1=72.8"]
    assert cli.main([*words, *SMALL, "--note", "a test", "--out", str(out)]) == 0
    return out


def test_what_is_measured(record):
    found = json.loads(record.read_text())
    assert found["tool"] == "compare" and {"cpu", "cores"} <= set(found["machine"])
    assert {"commit", "torch", "timm"} <= set(found["versions"]) and not found["features"]
    assert "out" not in found["arguments"] and found["arguments"]["note"] == "a test"
    assert list(found["contenders"]) == ["shvit_s1", "timm resnet18"]
    ours = found["contenders"]["shvit_s1"]
    assert ours["parameters"] == sum(p.numel() for p in build_classifier("shvit_s1").parameters())
    assert found["contenders"]["timm resnet18"]["parameters"] == 11_689_512  # torchvision's and timm's figure
    with torch.device("meta"):
        whole = build_classifier("shvit_s1").eval()
    assert ours["multiply_adds"] == {"32": count_multiply_adds(whole, 32, 32)}
    (result,) = found["results"]
    for which in ("inference", "training"):
        timings = result["passes"][which]["timings"]
        assert list(timings) == list(found["contenders"])
        assert all(0 < one["best"] <= one["median"] and one["calls"] >= 3 for one in timings.values())
    for name in found["contenders"]:
        used = result["memory"][name]
        # Training keeps a gradient of every parameter, which inference does not have.
        assert used["training"] > 4 * found["contenders"][name]["parameters"] * 0.9 > 0 <= used["inference"]
        assert used["inference"] < used["training"]


def test_tables_csv_and_markdown(record, tmp_path, capsys):
    words = ["--csv", str(tmp_path / "a.csv"), "--markdown", str(tmp_path / "a.md")]
    assert cli.main(["compare", "--from", str(record), *words]) == 0
    printed = capsys.readouterr().out
    assert "batch 2 at 32 x 32, eager, float32, 1 thread;" in printed and "timm resnet18" in printed
    assert "shvit_s1: 72.80 % (given)" in printed and "a test" in printed
    found = json.loads(record.read_text())
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(found["contenders"])
    for row in rows:
        median = found["results"][0]["passes"]["training"]["timings"][row["name"]]["median"]
        assert float(row["training_pictures_s"]) == pytest.approx(2 / median)
        assert float(row["inference_mb"]) == found["results"][0]["memory"][row["name"]]["inference"] / 1e6
    assert rows[1]["accuracy"] == "" and rows[1]["pareto"] == "False"
    table = [line for line in (tmp_path / "a.md").read_text().splitlines() if line.startswith("|")]
    assert len(table) == 2 + 2 and len({line.count("|") for line in table}) == 1
    assert table[2].startswith("| shvit_s1 | 6.33 | ")


def test_the_plot_is_written_and_names_who_is_missing(record, tmp_path, capsys):
    for name in ("plot.svg", "plot.png"):
        assert cli.main(["compare", "--from", str(record), "--plot", str(tmp_path / name)]) == 0
        assert f"{name}: not drawn, no accuracy is known of them: timm resnet18" in capsys.readouterr().out
    svg = (tmp_path / "plot.svg").read_text()
    assert all(word in svg for word in ("pictures/s", "accuracy, %", "Pareto front", "shvit_s1", "Bestiary"))
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def dominated(points):
    """By the definition, pair by pair."""
    return [any(a >= x and b >= y and (a > x or b > y) for a, b in points) for x, y in points]


def test_the_pareto_front():
    assert pareto([(1, 9), (2, 8), (2, 9), (3, 1), (3, 1), (0, 10)]) == [False, False, True, True, True, True]
    draw = random.Random(0)
    for _ in range(50):
        points = [(draw.randint(0, 9), draw.randint(0, 9)) for _ in range(draw.randint(1, 12))]
        assert pareto(points) == [not lost for lost in dominated(points)]


def points_of(count, seed):
    """Rows of a plot, many of them close to one another, some with long names."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        near = rows[-1] if rows and draw.random() < 0.4 else None
        speed = near["inference_pictures_s"] * 1.03 if near else 10 ** draw.uniform(0, 2.5)
        accuracy = near["accuracy"] + 0.1 if near else draw.uniform(70, 85)
        name = f"{'timm ' * (number % 3 == 0)}network_{'small_' * (number % 2)}{number}"
        whose = ("timm", "bestiary", "config", "run")[number % 3]
        rows.append(dict(name=name, whose=whose, inference_pictures_s=speed, accuracy=accuracy))
    front = pareto([(row["inference_pictures_s"], row["accuracy"]) for row in rows])
    return [row | {"pareto": on_front} for row, on_front in zip(rows, front, strict=True)]


@pytest.mark.parametrize(("width", "count"), [(8, 16), (4, 8)])
@pytest.mark.parametrize("seed", range(3))
def test_labels_keep_clear_of_one_another_of_points_and_of_the_border(width, count, seed):
    rows = points_of(count, seed)
    figure, (labels,) = scatter.plotted([("a title", rows)], "top-1", width)
    figure.canvas.draw()
    axes = figure.axes[0]
    boxes = [label.get_window_extent() for label in labels]
    assert sorted(label.get_text() for label in labels) == sorted(row["name"] for row in rows)
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])
        frame = axes.get_window_extent()
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
        for row in rows:
            x, y = axes.transData.transform((row["inference_pictures_s"], row["accuracy"]))
            assert not box.overlaps(Bbox.from_extents(x - 3, y - 3, x + 3, y + 3)), labels[index].get_text()
    inside = figure.bbox
    ticks = [label.get_window_extent() for label in axes.get_xticklabels() if label.get_text()]
    ticks = [box for box in ticks if axes.bbox.x0 - 1 <= (box.x0 + box.x1) / 2 <= axes.bbox.x1 + 1]
    words = [text.get_window_extent() for text in (axes.xaxis.label, axes.yaxis.label, axes._left_title)]
    for box in [*words, *ticks]:
        assert inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1
    assert len(ticks) >= 2 and not any(a.overlaps(b) for a, b in zip(ticks, ticks[1:], strict=False))


def test_a_score_of_other_pictures_is_said():
    row = dict(name="shvit_s4", size=224)
    named = [scatter.named(row | {"accuracy_at": scored}) for scored in (224, None, 256)]
    assert named == ["shvit_s4", "shvit_s4", "shvit_s4 (scored at 256)"]


def test_names_that_do_not_fit_are_refused():
    rows = points_of(40, 0)
    with pytest.raises(scatter.InputError, match="the names do not fit the picture: make it wider"):
        scatter.plotted([("a title", rows)], "top-1", 4)


def test_scores_of_different_kinds_are_not_set_against_each_other():
    def known(value, metric):
        return dict(
            whose="run", parameters=1, multiply_adds={"32": 1}, accuracy=value and dict(value=value, metric=metric)
        )

    timing = dict(median=0.1)
    names = dict(a=known(80, "top-1"), b=known(40, "box AP"), c=known(79, ""), d=known(None, ""), e=known(78, "top-1"))
    passes = {"inference": dict(timings=dict.fromkeys(names, timing), load={})}
    result = dict(batch=1, size=32, mode="eager", layout="contiguous", dtype="float32", passes=passes, memory={})
    rows = compare_tables.rows_of(dict(contenders=names, results=[result]))
    assert compare_tables.main_metric(dict(contenders=names)) == "top-1"
    assert [row["name"] for row in rows if compare_tables.placed(row, "top-1")] == ["a", "c", "e"]
    assert [row["name"] for row in rows if row["pareto"]] == ["a"]


def test_a_detectors_config_is_its_backbone_and_so_are_the_others_then(tiny, tmp_path):
    out = tmp_path / "record.json"
    words = [str(tiny / "detection.py"), "shvit_s1", "timm:resnet18", "--passes", "inference", *SMALL]
    assert cli.main(["compare", *words, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["features"]
    sizes = {name: known["parameters"] for name, known in found["contenders"].items()}
    assert sizes["shvit_s1"] == sum(p.numel() for p in build_backbone("shvit_s1").parameters())
    assert sizes["timm resnet18"] == 11_689_512 - 512 * 1000 - 1000  # without its last layer
    with torch.device("meta"):
        maps = build_backbone("shvit_s1").eval()
    assert found["contenders"]["shvit_s1"]["multiply_adds"]["32"] == count_forward(maps, 32, 32)


def test_a_work_directory_is_its_config_and_its_score(tiny, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("classification", "common"):
        (run / f"{name}.py").write_text((tiny / f"{name}.py").read_text())
    (run / "common.py").touch()
    (run / "classification.py").touch()
    found = contenders.resolve(str(run))
    assert found.whose == "run" and found.name == "run" and found.accuracy is None and found.classifies
    scores = {"coco/segm_mAP": 0.25, "coco/bbox_mAP": 0.3, "coco/bbox_mAP_50": 0.5}
    (run / "metrics.json").write_text(json.dumps(dict(metrics=scores, split="val")))
    accuracy = contenders.resolve(str(run)).accuracy
    assert (accuracy.value, accuracy.metric, accuracy.source) == (30.0, "box AP, val", "run/metrics.json")
    (run / "metrics.json").write_text("{")
    with pytest.raises(contenders.InputError, match="metrics.json: not a run's scores"):
        contenders.resolve(str(run))


def test_published_accuracies_come_from_the_cards(monkeypatch):
    class Score:
        top1, by, size = 77.2, "authors", 224

    asked = []
    monkeypatch.setattr(contenders, "published_top1", lambda name: asked.append(name) or Score)
    accuracy = contenders.resolve("poolformer_s12").accuracy
    assert accuracy == (77.2, "ImageNet-1k top-1", "authors", 224)
    contenders.resolve("timm:poolformer_s12")
    assert asked == ["poolformer_s12", "poolformer_s12.sail_in1k"]  # timm's default weights


def test_same_names_are_told_apart():
    one, other = contenders.resolve("shvit_s1"), contenders.resolve("timm:shvit_s1")
    assert [c.name for c in contenders.named_apart([one, other, one._replace(text="again")])] == [
        "shvit_s1",
        "timm shvit_s1",
        "again",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("passes", "modes", "count"), [("inference", ["eager"], 8), ("training", ["compiled"], 4)])
def test_every_setting_has_its_table(passes, modes, count, tmp_path, capsys):
    out = tmp_path / "record.json"
    batches = ["2", "3"] if modes == ["eager"] else ["2"]  # to compile takes its time
    words = ["--batch", *batches, "--modes", *modes, "--layouts", "contiguous", "channels-last", "--passes", passes]
    words += ["--dtype", "float32", "bfloat16", "--size", "32", "--threads", "1", "--seconds", "0.01"]
    assert cli.main(["compare", "shvit_s1", "timm:resnet18", *words, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert len(found["results"]) == count and capsys.readouterr().out.count("batch ") == count
    assert len({tuple(result[key] for key in compare_tables.SETTING) for result in found["results"]}) == count


@pytest.mark.parametrize("name", ["shvit_s1", "timm:resnet18"])
def test_one_picture_too_small_to_train_on(name, capsys):
    """Said before anything is timed."""
    words = ["--size", "32", "64", "--batch", "2", "1", "--threads", "1", "--seconds", "0.01"]
    assert cli.main(["compare", name, *words]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "one picture of 32 x 32 leaves a batch norm one value a channel" in told and "take --batch 2" in told


def test_pictures_of_one_size_are_made_to_fit():
    model = contenders.ready(contenders.resolve("timm:vit_tiny_patch16_224"), False, 64, torch.device("cpu"))
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


def test_what_memory_starts_measures_itself(monkeypatch, capsys):
    """A compiled model is measured as compiled, after it was, at the size that it was compiled for."""
    ran = []

    def compiled(models):
        return [lambda picture, model=model: (ran.append(len(picture)), model(picture))[1] for model in models]

    monkeypatch.setattr(compare, "compiled_afresh", compiled)
    for mode, runs in (("eager", []), ("compiled", [3, 3, 3, 3])):
        told = dict(text="shvit_s1", features=True, setting=[3, 64, mode, "contiguous", "float32"])
        told |= dict(threads=1, device="cpu", passes=["inference", "training"])
        assert compare.main(["--one", json.dumps(told)]) == 0 and ran == runs
        used = json.loads(capsys.readouterr().out)
        assert 0 < used["inference"] < used["training"] < 500e6
