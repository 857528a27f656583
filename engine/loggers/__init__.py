"""Loggers: wandb, TensorBoard and MLflow as visualization backends of mmengine, and the hook that feeds them."""

from .base import Logger
from .hook import LoggersHook
from .mlflow import MLflowLogger
from .names import LOGGERS, add_loggers, loggers_of
from .tensorboard import TensorboardLogger
from .wandb import WandbLogger

__all__ = [
    "LOGGERS",
    "Logger",
    "LoggersHook",
    "MLflowLogger",
    "TensorboardLogger",
    "WandbLogger",
    "add_loggers",
    "loggers_of",
]
