"""metrics.csv: one row an epoch."""

from __future__ import annotations

import csv
import io

from gloro_fast.files import atomic
from gloro_fast.files.tensor_file import saving
from gloro_fast.train.epochs import COLUMNS, EpochMetrics
from gloro_fast.train.observers.base import Observer, RunStart
from gloro_fast.train.run_folder import RunFolder


class MetricsCsv(Observer):
    """Writes the metrics of all epochs anew after each, so that a resumed run has no row twice.

    Numbers have all their digits; what an epoch has not is empty.
    """

    def __init__(self) -> None:
        self._rows: list[EpochMetrics] = []
        self._folder: RunFolder | None = None

    def on_start(self, run: RunStart) -> None:
        """Write the rows there are."""
        self._rows, self._folder = list(run.rows), run.folder
        self._write()

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """Add a row."""
        self._rows.append(metrics)
        self._write()

    def _write(self) -> None:
        assert self._folder is not None
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row.to_dict() for row in self._rows)
        with saving(self._folder.metrics):
            atomic.write_text(self._folder.metrics, text.getvalue())
