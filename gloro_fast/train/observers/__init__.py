"""Who listens to a run: the metrics table, the curves, TensorBoard, the progress bar; one file each."""

from gloro_fast.train.observers.base import Observer, RunStart, Step, closing
from gloro_fast.train.observers.curves import Curves
from gloro_fast.train.observers.metrics_csv import MetricsCsv
from gloro_fast.train.observers.progress import ProgressBar
from gloro_fast.train.observers.tensorboard import TensorBoard

__all__ = ["Curves", "MetricsCsv", "Observer", "ProgressBar", "RunStart", "Step", "TensorBoard", "closing"]
