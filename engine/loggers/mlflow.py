"""MLflow: a server by its address, or a store of files in the work directory."""

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray

from ...registry import VISBACKENDS
from .base import Logger, Place, first_line, plain

# MLflow tries a server that does not answer for many minutes; a run waits half a minute at most.
QUICK = dict(MLFLOW_HTTP_REQUEST_MAX_RETRIES="1", MLFLOW_HTTP_REQUEST_TIMEOUT="15")
LONGEST = 500  # characters of a parameter: servers' limit, in the oldest that are about
AT_ONCE = 100  # parameters a request: MLflow's limit


@VISBACKENDS.register_module()
class MLflowLogger(Logger):
    """Curves by iteration, the config's entries as parameters and as a file, pictures and, if asked, checkpoints.

    Args:
        tracking_uri: of a server; MLFLOW_TRACKING_URI if None, and without that `WORK_DIR/mlruns`, a store of files,
            which also serves where the server cannot be reached when the run begins.
        experiment_name: 'bestiary' if neither it nor MLFLOW_EXPERIMENT_NAME is given.
        **others: see `Logger`.
    """

    name = package = "mlflow"

    def __init__(
        self, save_dir: str, tracking_uri: str | None = None, experiment_name: str | None = None, **others: Any
    ) -> None:
        super().__init__(save_dir, **others)
        self.tracking_uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.experiment_name = experiment_name or os.environ.get("MLFLOW_EXPERIMENT_NAME", "bestiary")
        for key, value in QUICK.items():
            os.environ.setdefault(key, value)

    def open(self, before: dict[str, Any] | None) -> dict[str, Any]:
        from mlflow.exceptions import MlflowException

        # In the work directory a store of files: one that needs nothing else. MLflow wants to be told.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        local = (self.work_dir / "mlruns").resolve().as_uri()
        uri = self.tracking_uri or local
        if before is not None:
            uri = local if before["uri"] == "mlruns" else before["uri"]
        try:
            self._connect(uri, before)
        except (MlflowException, OSError) as error:
            if uri == local:
                raise
            self.say(f"{uri} does not answer ({first_line(error)}): the run is kept in {self.work_dir / 'mlruns'}")
            uri = local
            self._connect(uri, None)
        self.uri = uri
        return {"uri": "mlruns" if uri == local else uri, "run_id": self.run_id}

    def _connect(self, uri: str, before: dict[str, Any] | None) -> None:
        from mlflow import MlflowClient

        self.run = client = MlflowClient(tracking_uri=uri)
        if before is not None:
            self.run_id = before["run_id"]
            client.update_run(self.run_id, status="RUNNING")
            return
        experiment = client.get_experiment_by_name(self.experiment_name)
        number = client.create_experiment(self.experiment_name) if experiment is None else experiment.experiment_id
        tags = {"job": self.job}
        self.run_id = client.create_run(number, run_name=self.work_dir.name, tags=tags).info.run_id

    def keep_config(self, config: Config) -> None:
        from mlflow.entities import Param

        self.run.log_text(self.run_id, config.pretty_text, "config.py")
        # A parameter can be written once: a resumed run brings those that are new.
        there = self.run.get_run(self.run_id).data.params
        entries = {key: value for key, value in _leaves(plain(config.to_dict())) if key not in there}
        params = [Param(key, value[:LONGEST]) for key, value in entries.items()]
        for first in range(0, len(params), AT_ONCE):
            self.run.log_batch(self.run_id, params=params[first : first + AT_ONCE])

    def scalars(self, values: Mapping[str, float], place: Place) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        # MLflow takes neither "@" nor brackets in names.
        rows = {**values, "epoch": float(place.epoch)}
        metrics = [Metric(_name(key), value, now, place.iter) for key, value in rows.items()]
        self.run.log_batch(self.run_id, metrics=metrics)

    def pictures(self, what: str, pictures: Mapping[str, NDArray[np.uint8]], place: Place) -> None:
        from PIL import Image

        for name, picture in pictures.items():
            file = f"{what}/{place.iter:07d}/{Path(name).stem}.png"
            self.run.log_image(self.run_id, Image.fromarray(picture), file)

    def checkpoint(self, path: Path, kinds: list[str]) -> None:
        for kind in kinds:
            self.run.log_artifact(self.run_id, str(path), f"checkpoints/{kind}")

    def finish(self) -> None:
        self.run.set_terminated(self.run_id)

    def where(self) -> str:
        if not self.uri.startswith("file:"):
            return f"{self.uri}, run {self.run_id}"
        return (
            f"{self.work_dir / 'mlruns'}, run {self.run_id}; to look at it, with the package mlflow: "
            f"MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {self.work_dir / 'mlruns'}"
        )


def _name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in text)


def _leaves(tree: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """`model.backbone.arch`, 's12' and so on; a list of plain values is one."""
    if isinstance(tree, dict):
        for key, inner in tree.items():
            yield from _leaves(inner, f"{place}.{key}" if place else key)
    elif isinstance(tree, list) and any(isinstance(inner, dict | list) for inner in tree):
        for i, inner in enumerate(tree):
            yield from _leaves(inner, f"{place}.{i}")
    else:
        yield _name(place), str(tree)
