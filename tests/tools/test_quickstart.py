"""What the quickstart runs, skips and writes; the commands themselves are stood in for."""

import json
import sys
from pathlib import Path

import pytest

from bestiary.errors import InputError
from bestiary.tools import quickstart as tool

SCORES = {
    "classifier": {"accuracy/top1": 0.98, "accuracy/top5": 1.0},
    "detector": {"coco/bbox_mAP": 0.8, "coco/segm_mAP": 0.86},
    "segmentor": {"mIoU": 0.85, "aAcc": 0.99},
}


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Commands as they are asked for; a `train` leaves what a real one leaves."""
    monkeypatch.chdir(tmp_path)
    asked = []

    def run(commands):
        for _, command in commands:
            asked.append(command)
            if command[0] == "data":
                pictures = [Path("data/digits") / task.pictures / "3" / "a.jpg" for task in tool.TASKS]
                for path in (Path("data/digits/digits.json"), *pictures):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text("{}")
            if command[0] == "train":
                folder = Path(command[command.index("--work-dir") + 1])
                (folder / "metrics.json").write_text(json.dumps({"metrics": SCORES[folder.name]}))
                (folder / "last_checkpoint").write_text(str(folder / "epoch_1.pth"))
                (folder / "epoch_1.pth").write_text("weights")
                (folder / "report.html").write_text("page")
            if command[0] == "infer":
                out = Path(command[command.index("--out") + 1])
                out.mkdir(parents=True, exist_ok=True)
                (out / "sheet.png").write_text("sheet")
        return [1.5] * len(commands)

    monkeypatch.setattr(tool, "run", run)
    return asked


def trained(calls):
    return [Path(command[command.index("--work-dir") + 1]).name for command in calls if command[0] == "train"]


def test_summary(calls, capsys):
    tool.quickstart()
    assert trained(calls) == ["classifier", "detector", "segmentor"]
    summary = json.loads(Path("work_dirs/quickstart/summary.json").read_text())
    assert summary["detection"] == {"bbox_mAP": 0.8, "segm_mAP": 0.86}
    assert summary["segmentation"] == {"mIoU": 0.85}
    assert summary["classification"] == {"top1": 0.98}
    assert set(summary["seconds"]) == {"data", "classifier", "detector", "segmentor", "pictures", "total"}
    table = capsys.readouterr().out
    assert all(f"report: work_dirs/quickstart/{name}/report.html" in table for name in SCORES)
    assert "0.800" in table and "0.860" in table and "0.850" in table and "0.980" in table


def test_a_second_call_trains_and_draws_nothing(calls):
    tool.quickstart()
    calls.clear()
    first = Path("work_dirs/quickstart/summary.json").read_text()
    tool.quickstart()
    assert [command[0] for command in calls] == ["data"]
    assert Path("work_dirs/quickstart/summary.json").read_text() == first
    tool.quickstart(fresh=True)
    assert trained(calls) == ["classifier", "detector", "segmentor"]


def test_other_data_train_anew_and_take_old_checkpoints_away(calls):
    tool.quickstart()
    old = Path("work_dirs/quickstart/detector/epoch_9.pth")
    old.write_text("weights of another request")
    done = json.loads(tool.done_file(tool.DETECTOR).read_text())
    tool.done_file(tool.DETECTOR).write_text(json.dumps({**done, "request": "another"}))
    (old.parent / "request.txt").write_text("another")
    calls.clear()
    tool.quickstart()
    assert trained(calls) == ["detector"] and not old.exists()
    assert not any("--resume" in command for command in calls)


def test_an_interrupted_run_goes_on(calls):
    tool.quickstart()
    tool.done_file(tool.SEGMENTOR).unlink()
    calls.clear()
    tool.quickstart()
    assert trained(calls) == ["segmentor"]
    assert [command for command in calls if command[0] == "train"][0][-1] == "--resume"


def test_a_command_that_fails_ends_the_others(monkeypatch, tmp_path, capfd):
    stand_in = tmp_path / "python"
    stand_in.write_text(
        f"#!{sys.executable}\nimport sys, time\nprint('here', sys.argv[3])\n"
        "time.sleep(60 if sys.argv[3] == 'slow' else 0)\nsys.exit(3)\n"
    )
    stand_in.chmod(0o755)
    monkeypatch.setattr(tool.sys, "executable", str(stand_in))
    with pytest.raises(InputError, match="second ended with status 3.*bestiary fails"):
        tool.run([("first", ["slow"]), ("second", ["fails"])])
