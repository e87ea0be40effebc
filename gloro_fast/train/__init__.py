"""Training a GloRo net so that it can be stopped anywhere and gone on with, bit for bit.

Stands on ``net``, ``recipes``, ``models``, ``data``, ``evaluate`` and ``files``; the command line and ``reproduce``
train with it, and load the nets of finished runs.
"""

from gloro_fast.train.allocator import keep_freed_memory
from gloro_fast.train.checkpoint import saved_config
from gloro_fast.train.config import RunConfig, check_unchanged, read_config
from gloro_fast.train.epochs import EpochMetrics, EpochSettings, epoch_settings
from gloro_fast.train.graphed_step import GraphedStep
from gloro_fast.train.muon import Muon
from gloro_fast.train.observers import (
    Curves,
    MetricsCsv,
    MLflow,
    Observer,
    ProgressBar,
    RunStart,
    Step,
    TensorBoard,
    WeightsAndBiases,
)
from gloro_fast.train.result import Result
from gloro_fast.train.signals import Interrupted
from gloro_fast.train.state import TrainingState
from gloro_fast.train.trainer import Trainer

__all__ = [
    "Curves",
    "EpochMetrics",
    "EpochSettings",
    "GraphedStep",
    "Interrupted",
    "MLflow",
    "MetricsCsv",
    "Muon",
    "Observer",
    "ProgressBar",
    "Result",
    "RunConfig",
    "RunStart",
    "Step",
    "TensorBoard",
    "Trainer",
    "TrainingState",
    "WeightsAndBiases",
    "check_unchanged",
    "epoch_settings",
    "keep_freed_memory",
    "read_config",
    "saved_config",
]
