"""metrics.csv: one row an epoch."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from gloro_fast.errors import DataError
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


def read_metrics(path: Path) -> list[EpochMetrics]:
    """Read the epochs of a metrics.csv.

    Returns:
        One row an epoch; none where there is no such file.

    Raises:
        DataError: it is damaged, or of another version; names the row.
    """
    if not path.is_file():
        return []
    rows: list[EpochMetrics] = []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                values: dict[str, Any] = {
                    name: float(text) if text else None for name, text in row.items() if name != "phase"
                }
                rows.append(EpochMetrics(**{**values, "epoch": int(row["epoch"]), "phase": row["phase"]}))
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:
        place = f"row {len(rows) + 1} of {path}"
        raise DataError(f"{place} cannot be read ({error}); restore the file, or remove it to go without") from None
    return rows
