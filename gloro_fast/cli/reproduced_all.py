"""The work of ``gloro-fast reproduce --all``: every row that data are there for, in so many minutes, and one report."""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import typer

from gloro_fast.cli.files import to_json, writing
from gloro_fast.cli.options import usable_device, use_threads
from gloro_fast.cli.reproduced import Reproduction, likeliest_noise, noises_of
from gloro_fast.cli.runs import RunRequest
from gloro_fast.data import DataSet
from gloro_fast.errors import ConfigError, DataError, GloroFastError, SoundnessError
from gloro_fast.files import atomic
from gloro_fast.recipes import get
from gloro_fast.reproduce import budget, pace, rows
from gloro_fast.reproduce.effort import Effort
from gloro_fast.reproduce.ledger import Entry, Ledger
from gloro_fast.reproduce.overview import overview, summary
from gloro_fast.reproduce.provenance import commit, machine
from gloro_fast.reproduce.rows import Row
from gloro_fast.train import Interrupted
from gloro_fast.train.signals import interrupting

ALL = "all"
"""The folder of the report, and of the runs."""
# Of a row's share of the time, at most so much to find out how long an epoch takes.
_PACING = 0.05


@dataclass(frozen=True)
class AllRows:
    """All rows to run: what was asked for.

    Attributes:
        request: what their runs have in common; no recipe, no fields.
        command: what the reports say they were made by.
        minutes: for everything; None for all epochs of the recipes.
        effort: how much to measure, at most.
        quick: whether that is cut short.
        reports: the folder of reports.
        runs: the folder of runs.
        seed: of everything.
        resume: go on with what is there.
        overwrite: replace what is there.
    """

    request: RunRequest
    command: str
    minutes: float | None
    effort: Effort
    quick: bool
    reports: Path
    runs: Path
    seed: int
    resume: bool
    overwrite: bool
    _missing: dict[str, str] = field(default_factory=dict)
    _left_out: dict[str, str] = field(default_factory=dict)

    def run(self) -> tuple[Path, bool]:
        """Do all of it.

        Returns:
            The folder of the report, and whether every row that was begun ended well.

        Raises:
            GloroFastError: no data are there, no time is for any row, a ledger or folder cannot be used, or a
                certificate or bound turned out wrong.
            Interrupted: a signal came; all is saved.
        """
        ledger = self._ledger()
        use_threads(self.request.threads)
        with interrupting(ledger.path):
            try:
                found = self._data()
                todo = [row for row in rows.EVERY_ROW if row.data in found]
                for place, row in enumerate(todo):
                    if not self._is_done(row, ledger):
                        to_come = [later for later in todo[place:] if not self._is_done(later, ledger)]
                        self._row(row, found[row.data], ledger, to_come)
                    folder = self._report(ledger)
            except Interrupted as stop:
                # Of what was stopped the place may be a temporary one.
                raise Interrupted(stop.signal, ledger.path) from None
            finally:
                ledger.save()
        if not ledger.entries:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._left_out.items())
            raise ConfigError(f"no row fits into {self.minutes:g} minutes; give more with --minutes ({reasons})")
        return folder, not any(entry.fault for entry in ledger.entries.values())

    def _ledger(self) -> Ledger:
        path = self.runs.expanduser() / ALL / "ledger.json"
        if path.is_file() and not (self.resume or self.overwrite):
            raise ConfigError(f"{path.parent} holds runs; --resume goes on from them, --overwrite replaces them")
        with writing(path):
            if self.overwrite:
                path.unlink(missing_ok=True)
            ledger = Ledger(path, {"seed": self.seed, "quick": self.quick, "method": self.effort.method})
            ledger.save()
        return ledger

    def _data(self) -> dict[str, RunRequest]:
        """Load the data sets that are there; give the request of the rows of each.

        Raises:
            DataError: there are none.
        """
        found = {}
        for name in dict.fromkeys(row.data for row in rows.EVERY_ROW):
            try:
                found[name] = _located(self.request, name)
            except DataError as error:
                self._missing[name] = self._without_places(str(error))
                typer.echo(f"{name}: not found, its rows are left out ({error})", err=True)
        if not found:
            raise DataError(f"none of the data are there: {'; '.join(self._missing.values())}")
        return found

    def _row(self, row: Row, request: RunRequest, ledger: Ledger, to_come: list[Row]) -> None:
        """Run a row, or note why that cannot be."""
        entry = ledger.entries.get(row.label)
        going_on = entry is not None and entry.fields is not None
        try:
            if not going_on:
                entry = self._begin(row, request, ledger, to_come)
                if entry is None:
                    return
            assert entry is not None
            ledger.entries[row.label], entry.fault = entry, ""
            with ledger.counting(entry):
                self._reproduce(row, request, entry, going_on)
                entry.done = True
        except Exception as error:
            self._failed(row, ledger, error)
        # What a row leaves, above all one that ran out of memory, is not for the next to do without.
        gc.collect()
        torch.cuda.empty_cache()

    def _failed(self, row: Row, ledger: Ledger, error: Exception) -> None:
        """Note what a row failed by; raise a broken certificate or bound again, which is no matter of one row."""
        reason = str(error) if isinstance(error, GloroFastError) else f"{type(error).__name__}: {error}"
        fault = self._without_places(" ".join(reason.split()))
        ledger.entries.setdefault(row.label, Entry()).fault = fault
        if isinstance(error, SoundnessError):
            self._report(ledger)
            raise error
        if not isinstance(error, GloroFastError):
            traceback.print_exception(error)
        typer.echo(f"{row.label} failed, the others go on: {fault}", err=True)

    def _begin(self, row: Row, request: RunRequest, ledger: Ledger, to_come: list[Row]) -> Entry | None:
        """Decide on the epochs of a row; None where not one fits."""
        fields = {**row.fields, **request.fields}
        recipe = get(row.recipe).override(**fields)
        if self.minutes is None:
            return Entry(fields)
        data, _ = request.load_data(recipe.data, "")
        weights = sum(later.weight for later in to_come)
        if recipe.noise and recipe.has_sampled_loss:
            # Such a training takes as long as dozens of others.
            fields["noise"] = likeliest_noise(recipe)
        share = budget.share(60 * self.minutes - ledger.used, row.weight, weights)
        if not share:
            self._leave_out(row, "the minutes are over")
            return None
        device = usable_device(request.device)
        per_epoch = pace.seconds_per_epoch(recipe, data, device, _PACING * share, self.seed)
        # Finding out took some of it, the first time all that compiles: that is not this row's alone.
        trainings = len(noises_of(recipe, fields)) if recipe.noise else 1
        least = budget.least(per_epoch, trainings)
        share = budget.share(60 * self.minutes - ledger.used, row.weight, weights, least)
        within = budget.epochs_within(recipe, share, per_epoch, trainings)
        if within is None:
            times = f", {trainings} times" if trainings > 1 else ""
            self._leave_out(row, f"an epoch takes {per_epoch:.2g} s{times}, and its share was {share:.2g} s")
            return None
        return Entry({**fields, **within}, share, seconds_per_epoch=per_epoch)

    def _leave_out(self, row: Row, reason: str) -> None:
        self._left_out[row.label] = reason
        typer.echo(f"{row.label} is left out: {reason}", err=True)

    def _reproduce(self, row: Row, request: RunRequest, entry: Entry, going_on: bool) -> None:
        recipe, fields = get(row.recipe), entry.fields or {}
        epochs = recipe.override(**fields).epochs
        share = "" if entry.share is None else f", {max(entry.share - entry.used, 0):.0f} s for it"
        typer.echo(f"== {row.label}: {epochs} of {recipe.epochs} epochs{share}", err=True)
        until = None if entry.share is None else time.monotonic() + entry.share - entry.used
        Reproduction(
            name=row.recipe,
            label=row.label,
            request=replace(request, recipe=row.recipe, fields=fields),
            command=self.command,
            effort=self.effort,
            quick=self.quick,
            reports=self.reports,
            runs=self.runs.expanduser() / ALL,
            seed=self.seed,
            resume=going_on,
            overwrite=True,
            until=until,
        ).run()

    def _without_places(self, text: str) -> str:
        """Name the options instead of places on this machine, which are nobody else's business."""
        places = {"--data-dir": self.request.data_dir, "--runs": self.runs, "--out": self.reports}
        for option, place in places.items():
            if place is not None and place.is_absolute():
                text = text.replace(str(place), option)
        return text

    def _report_of(self, row: Row) -> Path:
        return self.reports.expanduser() / row.label / "report.json"

    def _is_done(self, row: Row, ledger: Ledger) -> bool:
        """Whether a row is finished, and its report where reports go now: another place has it written again."""
        return row.label in ledger.entries and ledger.entries[row.label].done and self._report_of(row).is_file()

    def _report(self, ledger: Ledger) -> Path:
        """Write the report on what is there by now."""
        done = [row for row in rows.EVERY_ROW if self._is_done(row, ledger)]
        content: Mapping[str, Any] = {
            "command": self.command,
            "minutes": self.minutes,
            "seconds": round(ledger.used, 1),
            "quick": self.quick,
            "seed": self.seed,
            "rows": [summary(row, _read(self._report_of(row))) for row in done],
            "failed": {label: entry.fault for label, entry in ledger.entries.items() if entry.fault},
            "left_out": self._left_out,
            "missing": self._missing,
            "machine": machine(usable_device(self.request.device)),
            "commit": commit(),
        }
        folder = self.reports.expanduser() / ALL
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            atomic.write_text(folder / "report.json", to_json(content))
            atomic.write_text(folder / "README.md", overview(content))
        return folder


def _located(request: RunRequest, name: str) -> RunRequest:
    """Load a data set from where it can be under the folder of all data; give the request of its rows.

    That is a folder of its own name, the folder itself, or images or an archive whose name begins so, such as
    cifar10-jpeg/train/CLASS/*.

    Raises:
        DataError: it is in none of them; says what is wrong with the first.
    """
    top = request.data_dir
    places = [top] if top is None else [*([top / name] if (top / name).is_dir() else []), top]
    first: DataError | None = None
    for place in places:
        try:
            data, where = replace(request, data_dir=place).load_data(name, "")
            return replace(request, data_dir=place, loaded={name: (data, where)})
        except DataError as error:
            first = first or error
    for path in sorted([] if top is None else top.expanduser().glob(f"{name}*")):
        if path.suffix == ".npz" or (path / "train").is_dir():
            path = path.resolve()
            loaded: dict[str, tuple[DataSet, str]] = {
                str(path): replace(request, data_dir=None).load_data(str(path), "")
            }
            return replace(request, data_dir=None, fields={"data": str(path)}, loaded=loaded)
    assert first is not None
    raise first


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); begin anew with --overwrite") from None
