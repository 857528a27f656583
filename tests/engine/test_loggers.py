"""Loggers: runs written for real, offline, and read back; resumed runs; services that fail; names of --log."""

import json
import math
import socket

import numpy as np
import pytest
import wandb
from mmengine.config import Config
from shares import one_day_in
from wandb_file import Written

from bestiary.engine.loggers import TensorboardLogger, WandbLogger, add_loggers, loggers_of
from bestiary.engine.loggers import base as loggers_base
from bestiary.engine.loggers.base import Place
from bestiary.engine.runner import build_runner
from bestiary.errors import InputError


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No account and no settings of the person who runs the tests."""
    for key in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(key, raising=False)
    for key in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(key, raising=False)  # ours sets them, and monkeypatch takes them back
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    wandb.teardown()  # it reads the environment once
    yield
    wandb.teardown()


def wandb_runs(work_dir):
    wandb.teardown()  # as at the end of a process: its service writes the rest
    return [Written(folder) for folder in sorted((work_dir / "wandb").glob("offline-run-*"), key=lambda f: f.name)]


def events(work_dir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (work_dir / "tensorboard").iterdir()
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0}).Reload()


def mlflow_runs(work_dir):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(work_dir / "mlruns").resolve().as_uri())
    found = client.search_runs([client.get_experiment_by_name("bestiary").experiment_id])
    return client, found


def train(classifier, **changes):
    cfg = classifier.copy()
    cfg.merge_from_dict({"default_hooks": dict(logger=dict(type="LoggerHook", interval=1)), **changes})
    said = add_loggers(cfg, loggers_of("wandb,tensorboard,mlflow"), checkpoints=True)
    assert said == ["logged by wandb, tensorboard, mlflow"]
    runner = build_runner(cfg)
    runner.train()
    return runner


def test_a_run_and_its_resumption_in_all_three(classifier, tmp_path):
    train(classifier)
    more = dict(resume=True, experiment_name=classifier.experiment_name + "b", **{"train_cfg.max_epochs": 2})
    resumed = train(classifier, **more)
    work = tmp_path / "work"
    score = json.loads((work / "metrics.json").read_text())["metrics"]["accuracy/top1"]

    first, second = wandb_runs(work)
    assert first.id == second.id and first.project == "bestiary" and first.ended and second.ended
    assert first.config["model"]["backbone"]["type"] == "PoolFormer"
    assert first.metrics["train/*"] == "iter" and first.metrics["val/*"] == "epoch"
    rows = [row for run in (first, second) for row in run.rows]
    losses = {row["iter"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert list(losses) == [1, 2, 3, 4] and all(math.isfinite(loss) for loss in losses.values())
    assert [row["_step"] for row in rows if "train/loss" in row] == [1, 2, 3, 4]
    scores = [(row["epoch"], row["iter"], row["val/accuracy/top1"]) for row in rows if "val/accuracy/top1" in row]
    assert [place[:2] for place in scores] == [(1, 2), (2, 4)] and scores[-1][2] == pytest.approx(score)
    drawn = next(row for row in rows if "val/predictions/count" in row)
    assert drawn["val/predictions/count"] == 6 and drawn["val/predictions/captions"][0] == "0.jpg"
    aliases, files = second.artifacts[-1]
    assert "last" in aliases and files == ["epoch_2.pth"]

    board = events(work)
    assert {event.step: event.value for event in board.Scalars("train/loss")} == pytest.approx(losses, rel=1e-6)
    assert [event.step for event in board.Scalars("val/accuracy/top1")] == [2, 4]
    assert b"PoolFormer" in board.Tensors("config/text_summary")[0].tensor_proto.string_val[0]
    pictures = [tag for tag in board.Tags()["images"] if tag.startswith("val/predictions")]
    assert len(pictures) == 6 and [event.step for event in board.Images(pictures[0])] == [2, 4]

    client, (run,) = mlflow_runs(work)
    history = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "train/loss")}
    assert history == pytest.approx(losses) and run.info.status == "FINISHED"
    assert run.data.params["model.backbone.type"] == "PoolFormer" and run.data.metrics["epoch"] == 2
    assert run.data.metrics["val/accuracy/top1"] == pytest.approx(score)
    kept = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert {"config.py", "val", "checkpoints"} <= kept
    assert [e.path for e in client.list_artifacts(run.info.run_id, "checkpoints/last")] == [
        "checkpoints/last/epoch_1.pth",
        "checkpoints/last/epoch_2.pth",
    ]

    words = [logger.words() for logger in resumed.visualizer._vis_backends.values() if hasattr(logger, "words")]
    assert f"wandb sync {work}/wandb/offline-run-" in words[0] and f"--logdir {work}/tensorboard" in words[1]


@one_day_in(4, 5)
def test_mmengines_own_backends_keep_working(classifier, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    kinds = ["LocalVisBackend", "WandbVisBackend", "TensorboardVisBackend"]
    cfg = classifier.copy()
    cfg.visualizer.vis_backends = [dict(type=kind) for kind in kinds]
    assert add_loggers(cfg) == [] and [b["type"] for b in cfg.visualizer.vis_backends] == kinds
    cfg.merge_from_dict({"default_hooks": dict(logger=dict(type="LoggerHook", interval=1))})
    build_runner(cfg).train()
    (data,) = (tmp_path / "work").glob("*/vis_data")
    assert list(data.glob("events*")) and list(data.glob("wandb/offline-run-*/*.wandb"))


def test_ours_by_config_without_the_hook(tmp_path):
    """As under mmdet's own train.py: mmengine's rows are all there is."""
    logger = TensorboardLogger(str(tmp_path))
    logger.add_config(Config(dict(work_dir=str(tmp_path))))
    logger.add_scalars(dict(loss=0.5, iter=3, epoch=1, lr=0.1))
    logger.add_scalars({"coco/bbox_mAP": 0.25, "table": "text", "step": 1})
    logger.add_image("scene", np.zeros((4, 5, 3), np.uint8), 3)
    logger.close()
    board = events(tmp_path)
    assert board.Scalars("train/loss")[0].step == 3 and board.Scalars("val/coco/bbox_mAP")[0].value == 0.25
    assert (board.Images("scene")[0].width, board.Images("scene")[0].height) == (5, 4)


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_wandb_without_network_is_offline_and_says_so(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed_port()}")
    logger = WandbLogger(str(tmp_path), init_kwargs=dict(project="mine"))
    logger.add_scalars(dict(loss=0.5, iter=1))
    logger.close()
    assert "127.0.0.1 cannot be reached" in logger.offline and "wandb sync" in logger.words()
    (run,) = wandb_runs(tmp_path)
    assert run.project == "mine" and run.rows[0]["train/loss"] == 0.5


def test_wandb_with_a_server_that_does_not_answer(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections and is silent
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        logger = WandbLogger(str(tmp_path), init_kwargs=dict(settings=dict(init_timeout=2)))
        logger.add_scalars(dict(loss=0.5, iter=1))
        logger.close()
    assert "the server did not take the run" in logger.offline and not logger.off
    assert any(row.get("train/loss") == 0.5 for run in wandb_runs(tmp_path) for row in run.rows)


def test_mlflow_server_that_is_not_there(classifier, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    cfg = classifier.copy()
    add_loggers(cfg, ["mlflow"])
    build_runner(cfg).train()
    _, (run,) = mlflow_runs(tmp_path / "work")
    assert "val/accuracy/top1" in run.data.metrics


def test_a_logger_that_fails_does_not_end_the_run(classifier, monkeypatch):
    def broken(self, *args):
        raise ConnectionResetError("the network went away")

    monkeypatch.setattr(TensorboardLogger, "scalars", broken)
    cfg = classifier.copy()
    cfg.merge_from_dict({"default_hooks": dict(logger=dict(type="LoggerHook", interval=1))})
    add_loggers(cfg, ["tensorboard"])
    said = []
    monkeypatch.setattr(loggers_base, "print_log", lambda text, *_: said.append(text))
    runner = build_runner(cfg)
    runner.train()
    assert runner.iter == 2
    assert said == [
        "tensorboard: writing curves failed (ConnectionResetError: the network went away); the run goes on without "
        "tensorboard"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wandbb", r"--log: no logger 'wandbb' \(did you mean 'wandb'\?\); there are wandb, tensorboard, mlflow"),
        ("mlflow,comet", "no logger 'comet'; there are"),
    ],
)
def test_unknown_names(text, message):
    with pytest.raises(InputError, match=message):
        loggers_of(text)


def test_missing_package_names_the_extra(monkeypatch, classifier):
    monkeypatch.setattr(loggers_base.importlib.util, "find_spec", lambda name: None)
    message = r"wandb: the package wandb is not installed: pip install 'bestiary\[wandb\]'"
    with pytest.raises(InputError, match=message):
        loggers_of("wandb")
    with pytest.raises(InputError, match=message):
        WandbLogger("x")
    classifier.visualizer.vis_backends = [dict(type="WandbVisBackend")]
    with pytest.raises(InputError, match=message):
        add_loggers(classifier)


def test_names_into_a_config(classifier):
    theirs = dict(type="WandbVisBackend", init_kwargs=dict(project="mine"))
    classifier.visualizer.vis_backends = [dict(type="LocalVisBackend"), theirs]
    add_loggers(classifier, ["wandb"], "test", checkpoints=True)
    add_loggers(classifier, ["wandb"], "test", checkpoints=True)  # a config that was dumped with them
    assert classifier.visualizer.vis_backends == [
        dict(type="LocalVisBackend"),
        dict(type="bestiary.WandbLogger", init_kwargs=dict(project="mine"), job="test", checkpoints=True),
    ]
    assert [hook["type"] for hook in classifier.custom_hooks] == ["bestiary.LoggersHook"]
    with pytest.raises(InputError, match="--log-checkpoints: tensorboard keeps no checkpoints"):
        add_loggers(Config(dict()), ["tensorboard"], checkpoints=True)
    with pytest.raises(InputError, match="--log-checkpoints: name the logger"):
        add_loggers(Config(dict(visualizer=dict(vis_backends=[]))), checkpoints=True)


def test_a_test_run_leaves_the_note_of_training_alone(tmp_path):
    for job in ("train", "test"):
        logger = WandbLogger(str(tmp_path), job=job)
        logger.add_config(Config(dict(work_dir=str(tmp_path))))
        logger.add_scores(job, {"top1": 0.5, "none": None}, Place(0, 0))
        logger.close()
    trained, tested = wandb_runs(tmp_path)
    noted = json.loads((tmp_path / "loggers.json").read_text())
    ids = {run.id: run for run in (trained, tested)}
    assert "test/top1" not in ids[noted["wandb"]["id"]].rows[0] and len(ids) == 2


def test_a_run_that_is_not_resumed_begins_anew(tmp_path):
    ids = []
    for resume in (False, True, False):
        logger = WandbLogger(str(tmp_path))
        logger.add_config(Config(dict(work_dir=str(tmp_path), resume=resume)))
        logger.close()
        ids.append(json.loads((tmp_path / "loggers.json").read_text())["wandb"]["id"])
    assert ids[0] == ids[1] != ids[2]
