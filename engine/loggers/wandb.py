"""Weights & Biases, online, or offline where there is no network or no account."""

import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray

from ...registry import VISBACKENDS
from .base import Logger, Place, first_line, plain

PATIENCE = 5.0  # seconds to reach the server, at the start
INIT_TIMEOUT = 60.0  # seconds for the server to take the run
FINISH_TIMEOUT = 300.0  # seconds for the rest to arrive when the run ends


@VISBACKENDS.register_module()
class WandbLogger(Logger):
    """Curves by `iter` and `epoch`, the config, pictures and, if asked, checkpoints as artifacts, in a wandb run.

    Every row carries `iter` and `epoch`, and its step is the iteration: `train/*` is drawn by `iter`, `val/*` by
    `epoch` where training counts in epochs. A resumed run goes on under the same id.

    It is offline where WANDB_MODE says so, where there is no key to log in with (nobody is asked for one), and where
    the server cannot be reached; then `wandb sync` brings it there later.

    Args:
        init_kwargs: of `wandb.init`: `project`, `entity`, `name`, `tags`, ...
        **others: see `Logger`.
    """

    name = package = "wandb"

    def __init__(self, save_dir: str, init_kwargs: dict | None = None, **others: Any) -> None:
        super().__init__(save_dir, **others)
        self.init_kwargs = dict(init_kwargs or {})
        self.offline = ""  # why

    def open(self, before: dict[str, Any] | None) -> dict[str, Any]:
        import wandb

        wandb.setup(wandb.Settings(silent=True))  # logging in speaks, too
        settings = dict(silent=True, console="off", init_timeout=INIT_TIMEOUT, finish_timeout=FINISH_TIMEOUT)
        settings |= dict(self.init_kwargs.pop("settings", {}))
        run_id = (before or {}).get("id") or self.init_kwargs.pop("id", None) or secrets.token_hex(4)
        values: dict[str, Any] = dict(
            project=os.environ.get("WANDB_PROJECT", "bestiary"), name=self.work_dir.name, job_type=self.job
        )
        values |= dict(dir=str(self.work_dir), resume="allow") | self.init_kwargs | dict(id=run_id)
        self.offline = self._why_offline(values.get("mode"))
        if self.offline:
            values["mode"] = "offline"
            values.pop("resume")  # it means nothing there, and wandb would say so
        try:
            self.run = wandb.init(**values, settings=wandb.Settings(**settings))
        except (wandb.errors.Error, OSError) as error:  # a key that is refused, a server that does not answer
            if self.offline:
                raise
            self.offline = f"the server did not take the run ({first_line(error)})"
            values |= dict(mode="offline")
            values.pop("resume")
            wandb.teardown()  # else the run that did not begin holds the id
            self.run = wandb.init(**values, settings=wandb.Settings(**settings))
        if self.offline and self.offline != "asked":
            self.say(f"offline: {self.offline}")
        self.run.define_metric("iter")
        self.run.define_metric("epoch")
        self.run.define_metric("train/*", step_metric="iter")
        self.run.define_metric("val/*", step_metric="epoch" if self.by_epoch else "iter")
        return {"id": run_id, "project": values["project"], "folder": str(self.folder)}

    def _why_offline(self, mode: str | None) -> str:
        """The reason, 'asked' if it is the user's wish; empty: online."""
        mode = mode or os.environ.get("WANDB_MODE")
        if mode == "offline":
            return "asked"
        if mode in ("disabled", "dryrun", "shared"):
            return ""
        import wandb

        if wandb.api.api_key is None:
            return "there is no key to log in with; `wandb login` makes one"
        address = urlsplit(os.environ.get("WANDB_BASE_URL") or wandb.api.settings("base_url"))
        port = address.port or (80 if address.scheme == "http" else 443)
        if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):  # the proxy knows the server, not we
            return ""
        try:
            socket.create_connection((address.hostname, port), PATIENCE).close()
        except OSError as error:
            return f"{address.hostname} cannot be reached ({first_line(error)})"
        return ""

    @property
    def folder(self) -> Path:
        """Of the run's files."""
        return Path(self.run.dir).parent

    def keep_config(self, config: Config) -> None:
        self.run.config.update(plain(config.to_dict()), allow_val_change=True)

    def scalars(self, values: Mapping[str, float], place: Place) -> None:
        self.run.log({**values, **place._asdict()}, step=place.iter)

    def pictures(self, what: str, pictures: Mapping[str, NDArray[np.uint8]], place: Place) -> None:
        import wandb

        images = [wandb.Image(picture, caption=name) for name, picture in pictures.items()]
        self.run.log({what: images, **place._asdict()}, step=place.iter)

    def checkpoint(self, path: Path, kinds: list[str]) -> None:
        import wandb

        artifact = wandb.Artifact(f"{self.run.id}-checkpoint", type="model", metadata={"file": path.name})
        artifact.add_file(str(path), name=path.name)
        self.run.log_artifact(artifact, aliases=kinds)

    def finish(self) -> None:
        self.run.finish()

    def where(self) -> str:
        if not self.offline:
            return str(self.run.url or "disabled")
        return f"offline, in {self.folder}; to bring it online: wandb sync {self.folder}"
