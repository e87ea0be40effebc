"""Who listens to a run: the metrics table, the curves, the progress bar, trackers of experiments; one file each."""

from gloro_fast.train.observers.base import Observer, RunStart, Step, closing
from gloro_fast.train.observers.curves import Curves
from gloro_fast.train.observers.metrics_csv import MetricsCsv
from gloro_fast.train.observers.mlflow_run import MLflow
from gloro_fast.train.observers.progress import ProgressBar
from gloro_fast.train.observers.tensorboard import TensorBoard
from gloro_fast.train.observers.wandb_run import WeightsAndBiases

__all__ = [
    "Curves",
    "MLflow",
    "MetricsCsv",
    "Observer",
    "ProgressBar",
    "RunStart",
    "Step",
    "TensorBoard",
    "WeightsAndBiases",
    "closing",
]
