"""The training loop: steps, epochs, checkpoints, and the evaluation at the end."""

from __future__ import annotations

import dataclasses
import itertools
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gloro_fast.data import Batches, DataSet, Source, SourceBatches, Split, as_sources, split_validation
from gloro_fast.distributed import current
from gloro_fast.errors import ConfigError, DataError, DivergenceError, PeerError
from gloro_fast.files import atomic, tensor_file
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.recipes import Recipe
from gloro_fast.train import checkpoint
from gloro_fast.train.bfloat16 import warn_if_emulated
from gloro_fast.train.build import (
    build_criterion,
    build_net,
    build_optimizer,
    memory_format,
    set_learning_rate,
    usable_device,
)
from gloro_fast.train.config import RunConfig, warn_processes
from gloro_fast.train.determinism import deterministic
from gloro_fast.train.divergence import check_finite_loss, check_finite_weights, steps_between_checks
from gloro_fast.train.epochs import EpochMetrics, EpochSettings, epoch_settings
from gloro_fast.train.gap import bound_gap, is_due
from gloro_fast.train.observers import Curves, MetricsCsv, Observer, RunStart, Step, closing
from gloro_fast.train.randomness import Randomness
from gloro_fast.train.replay import recorder_for
from gloro_fast.train.result import Result, measure
from gloro_fast.train.run_folder import RunFolder
from gloro_fast.train.running import RunningSums
from gloro_fast.train.signals import Interrupted, StopSignals
from gloro_fast.train.state import TrainingState
from gloro_fast.train.steps import Steps
from gloro_fast.train.tf32 import allowed, tf32
from gloro_fast.train.validation import validate

# Images of the training split that observers see, where none are held out.
_WATCHED = 1000


class Trainer:
    """Trains the net of a recipe and keeps the run in a folder (Leino et al. 2021, Section 5 and Appendix B).

    After every epoch, and before the first, the whole state is saved. The kept weights are those of the last
    epoch or, with a validation split, of the epoch with the highest VRA on it (of equals the latest). The test
    split is used once, after that choice.

    In a group of processes (torchrun's, or whatever began torch.distributed before) each makes a trainer of its own
    with the same arguments and learns from its part of every batch; the first alone writes files and has observers.
    Weights are the same bits in all.

    On the CPU a step is a tenth faster after :func:`gloro_fast.train.allocator.keep_freed_memory`, which is for
    the whole process; the command line calls it.

    Args:
        recipe: what to train and how.
        data: the data set; or (train, test), or a mapping of them, each read anew at every epoch: see
            :class:`gloro_fast.data.Source` for what they can be.
        out: the run folder; made by :meth:`fit`.
        seed: of initialization, data order, augmentation and validation split.
        device: where to train.
        data_dir: where the data were found, for the record.
        observers: who hears of the run besides those that write metrics.csv and curves.png.
        overwrite: start anew in a folder that holds a run.
        graphs: capture the steps as CUDA graphs, where the device is a GPU; with or without, the bits are the same.
        deterministic: use deterministic algorithms alone on a GPU, so that a seed gives the same bits at every run.
        tf32: use TF32 on a GPU for convolutions and matrix products, or for neither; None follows torch's switches.

    Attributes:
        config: what decides the run.
        group: the processes that share it.
        state: everything that changes while it goes on.
        criterion: the criterion of the epochs after warm-up, but for standard training.

    Raises:
        ConfigError: ``out`` is in use, the seed or device cannot be used, batch or validation split are larger than
            the data, or a batch has fewer images than there are processes.
        ArchitectureError: the recipe's architecture does not fit the images.
        DataError: another process has other data.

    Warns:
        UserWarning: the recipe asks for bfloat16 and the device has no such arithmetic.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: DataSet | Any,
        out: Path | str,
        *,
        seed: int = 0,
        device: str = "cpu",
        data_dir: str = "",
        observers: Sequence[Observer] | None = None,
        overwrite: bool = False,
        graphs: bool = True,
        deterministic: bool = True,
        tf32: bool | None = None,
    ) -> None:
        self.group = group = current()
        self.folder = RunFolder(out)
        self._overwrite = overwrite
        self._data = data = data if isinstance(data, DataSet) else as_sources(data)
        self._data_sha256 = checkpoint.digest(data)
        first = group.tell(self._data_sha256)
        with group.together():
            if group.is_main and not overwrite:
                self.folder.check_free()
            if first != self._data_sha256:
                raise DataError(
                    f"{data.name} as process {group.rank} finds it is not what the first has; copy the same"
                )
            if recipe.batch_size < group.size:
                raise ConfigError(
                    f"a batch of {recipe.batch_size} images cannot be shared by {group.size} processes; use a larger "
                    "--batch-size, or fewer processes"
                )
            self._prepare(recipe, seed, device, data_dir, graphs, deterministic, tf32)
        self._observers: list[Observer] = [MetricsCsv(), Curves(), *(observers or ())] if group.is_main else []
        self._stop = StopSignals(patient=group.size > 1)
        self._writer = checkpoint.Writer(self.folder, beside=self._device.type != "cpu")
        self._saved = False
        self._started = self._epoch_started = 0.0

    def _prepare(
        self,
        recipe: Recipe,
        seed: int,
        device: str,
        data_dir: str,
        graphs: bool,
        deterministic: bool,
        tf32: bool | None,
    ) -> None:
        """Build what is trained, and what trains it."""
        data, group = self._data, self.group
        threads = torch.get_num_threads()
        self.config = RunConfig(
            recipe,
            data.input_shape,
            data.num_classes,
            seed,
            device,
            data_dir,
            threads,
            data.note,
            deterministic,
            data.test_share,
            "torch" if tf32 is None else "on" if tf32 else "off",
            group.size,
        )
        self._device = usable_device(device)
        if recipe.precision == "bfloat16":
            warn_if_emulated(self._device)
        train: Split | Source = data.train
        self._validation: Split | Source | None = None
        if recipe.validation_size:
            train, self._validation = split_validation(train, recipe.validation_size, seed)
        self._batches: Batches | SourceBatches
        if isinstance(train, Split):
            self._batches = Batches(train, recipe.batch_size, shuffle=True, device=self._device, group=group)
        else:
            self._batches = SourceBatches(
                train, recipe.batch_size, shuffle=True, device=self._device, num_classes=data.num_classes, group=group
            )
        self.criterion = build_criterion(recipe)
        net = build_net(self.config, device)
        self._memory_format = memory_format(net, self._device)
        net.to(memory_format=self._memory_format)  # type: ignore[call-overload]
        optimizer = build_optimizer(net, recipe)
        self.state = TrainingState(net, optimizer, Randomness(seed, self._device), RunningSums(self._device))
        recorder = recorder_for(self._device) if graphs else None
        self._graphs = "captured" if recorder else f"there are none on {device}" if graphs else "switched off"
        self._steps = Steps(recipe, self.state, self._batches, self.criterion, self._memory_format, recorder, group)
        self._settings = epoch_settings(recipe, 0)
        self._steps.begin(self._settings.phase)

    @classmethod
    def resume(
        cls,
        out: Path | str,
        data: DataSet | Any,
        *,
        observers: Sequence[Observer] | None = None,
        device: str | None = None,
        graphs: bool = True,
    ) -> Trainer:
        """Take up a run where its checkpoint left it; :meth:`fit` then goes on as if it had never stopped.

        Args:
            out: the run folder.
            data: the data set it began with.
            observers: as for the constructor.
            device: another device than it began on.
            graphs: as for the constructor.

        Raises:
            ConfigError: the run is already finished, or its config.toml was changed.
            CheckpointError: the checkpoint is missing, damaged, of another format version or architecture, or the
                data are not those that the run began with.

        Warns:
            UserWarning: other versions, kernels, threads or device, so that the last bits will differ.
        """
        data = data if isinstance(data, DataSet) else as_sources(data)
        group, found = current(), None
        with group.together():
            if group.is_main:
                found = checkpoint.load(RunFolder(out), data, device)
                warn_processes(found.config.processes, group.size)
        saved = group.tell(found)
        assert saved is not None
        config = saved.config
        trainer = cls(
            config.recipe,
            data,
            out,
            seed=config.seed,
            device=config.device,
            data_dir=config.data_dir,
            observers=observers,
            overwrite=True,
            graphs=graphs,
            deterministic=config.deterministic,
            tf32=config.allows_tf32,
        )
        trainer.config = config
        complaint = f"{trainer.folder.checkpoint} does not fit architecture {config.recipe.architecture}"
        trainer.state.restore(saved.tensors, saved.document, complaint)
        trainer._saved = True
        return trainer

    @property
    def net(self) -> GloRoNet:
        """The net being trained."""
        return self.state.net

    @property
    def epochs(self) -> int:
        """Epochs in all, warm-up counted."""
        return self.config.recipe.warmup_epochs + self.config.recipe.epochs

    def fit(self) -> Result:
        """Train to the end, from wherever the state stands.

        Returns:
            What the selected weights are worth on the test split; the run folder then holds everything.

        Raises:
            Interrupted: SIGINT or SIGTERM came; the state is saved in mid-epoch and fit() may be called again.
            DivergenceError: the loss or the weights became NaN or infinite; the last good checkpoint is kept.
            CheckpointError: a file cannot be written; the checkpoint before it survives.
            ConfigError: the run folder cannot be used, or another process trains in it.
            DistributedError: another process of the group has ended, or has failed and said why.
        """
        self._started = time.monotonic()
        with (
            self._stop,
            self._locked(),
            self.state.randomness.as_global(),
            deterministic(self._device, self.config.deterministic),
            tf32(self.config.allows_tf32),
            self._writer,
            closing(self._observers),
        ):
            self._open_folder()
            self._tell_start()
            while self.state.epoch < self.epochs:
                self._run_epoch()
            return self._finish()

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Do one training step; it does not wait for the device.

        Args:
            images: (B, C, H, W) float32 in [0, 1], not yet augmented, on the training device; in a group those of all
                processes, of which each learns from its part.
            labels: (B,) int64.
        """
        self._steps.step(images, labels)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with ExitStack() as held:
            with self.group.together():
                if self.group.is_main:
                    held.enter_context(self.folder.locked())
            yield

    def _open_folder(self) -> None:
        with self.group.together():
            if not self.group.is_main:
                return
            if self._saved:
                self.folder.remove_leftovers()
            else:
                if not self._overwrite:
                    self.folder.check_free()
                self.folder.create()
                self._save()
            with tensor_file.saving(self.folder.config):
                atomic.write_text(self.folder.config, self.config.to_toml())

    def _run_epoch(self) -> None:
        state = self.state
        self._epoch_started = time.monotonic()
        self._apply(epoch_settings(self.config.recipe, state.epoch))
        if state.order is None:
            self._begin_epoch()
        assert state.order is not None
        state.net.train()
        every = steps_between_checks(self._device)
        for _ in self._steps.epoch(state.order, state.batch):
            if state.batch % every == 0:
                self._check_finite(weights=False)
            report = Step(state.epoch + 1, state.batch, self._settings, state.sums)
            for observer in self._observers:
                observer.on_step(report)
            self._stop_in_epoch(every)
        self._end_epoch()

    def _apply(self, settings: EpochSettings) -> None:
        """Put epsilon, lambda and learning rate where they act."""
        self._settings = settings
        if settings.epsilon is not None:
            self.net.epsilon = settings.epsilon
        if settings.lam is not None:
            self.criterion.lam = settings.lam
        set_learning_rate(self.state.optimizer, settings.learning_rate)
        self._steps.begin(settings.phase)

    def _begin_epoch(self) -> None:
        state, recipe = self.state, self.config.recipe
        if recipe.warmup_epochs and state.epoch == recipe.warmup_epochs:
            state.optimizer = build_optimizer(state.net, recipe)
            self._apply(self._settings)
        state.order = self._batches.order(state.randomness.order)
        state.batch = 0
        state.epoch_seconds = 0.0
        state.sums.reset()
        self._follow_first()

    def _end_epoch(self) -> None:
        state = self.state
        self._check_finite()
        seconds = state.epoch_seconds + time.monotonic() - self._epoch_started
        row = EpochMetrics.of(state.epoch + 1, self._settings, state.sums.read(), seconds)
        with self.group.together():
            if self.group.is_main:
                row = self._judge(row)
        row = self.group.tell(row)
        state.rows.append(row)
        state.epoch, state.batch, state.order, state.epoch_seconds = state.epoch + 1, 0, None, 0.0
        with self.group.together():
            self._save(at_once=False)
            for observer in self._observers:
                observer.on_epoch(row)
        if state.epoch < self.epochs:
            self._stop_if_asked()

    def _judge(self, row: EpochMetrics) -> EpochMetrics:
        """Add to the metrics of an epoch what is found on the validation split, and the gap of the bound."""
        state = self.state
        if self._validation is not None and self._settings.phase == "robust":
            row = validate(state, self._validation, row, self.config.recipe.epsilon)
        if self._settings.phase == "robust" and is_due(row.epoch, self.epochs):
            row = dataclasses.replace(row, bound_gap=bound_gap(state.net, row.validation_lipschitz))
        return row

    def _finish(self) -> Result:
        result = None
        with self.group.together():
            if self.group.is_main:
                result = self._measure()
        # The others do without the weights of the best epoch until here.
        self._steps.forget()
        self.net.epsilon = self.config.recipe.epsilon
        self.net.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.group.follow(list(self.net.state_dict().values()))
        told = self.group.tell(result)
        assert told is not None
        return told

    def _measure(self) -> Result:
        """Certify the test split with the selected weights, and write them and the result."""
        state, recipe = self.state, self.config.recipe
        self._writer.wait()
        graphs = self._steps.why_eager or self._graphs
        self._steps.forget()
        if state.best is not None:
            state.net.load_state_dict(state.best.weights)
        state.net.epsilon = recipe.epsilon
        # As whoever loads the net will have it: in another memory format its logits differ in their last bits.
        state.net.eval().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        precision = allowed() if self._device.type == "cuda" else f"nothing, on {self._device.type}"
        result = measure(state, self.config, self._data, self._seconds(), graphs, precision)
        document = {"epsilon": recipe.epsilon, "config": self.config.to_dict()}
        tensor_file.write(self.folder.model, "model", state.net.state_dict(), document)
        for observer in self._observers:
            observer.on_end(result)
        with tensor_file.saving(self.folder.result):
            atomic.write_text(self.folder.result, result.to_json())
        return result

    def _tell_start(self) -> None:
        state, batches = self.state, len(self._batches)
        done = state.epoch * batches + state.batch
        start = RunStart(
            self.config, self.folder, tuple(state.rows), self.epochs, batches, done, state.net, self._watched()
        )
        with self.group.together():
            for observer in self._observers:
                observer.on_start(start)

    def _follow_first(self) -> None:
        """Give all processes the weights and moments of the first: other processors round otherwise."""
        state = self.state
        moments = [value for kept in state.optimizer.state.values() for value in kept.values()]
        self.group.follow([*state.net.state_dict().values(), *moments])

    def _stop_in_epoch(self, every: int) -> None:
        """Stop if a signal asked for it; in a group all processes stop at the step at which each knows of it."""
        if self.group.size == 1:
            if self._stop.received is not None:
                self._stop_if_asked()
            return
        if self.state.batch % every == 0 and self._steps.wants_stop():
            self._stop_if_asked()
        self._steps.asked_to_stop = self._stop.received is not None

    def _watched(self) -> Split | Source:
        if self._validation is not None:
            return self._validation
        train = self._data.train
        if isinstance(train, Split) or train.is_indexed:
            return train.take(torch.arange(min(_WATCHED, len(train))))
        images, labels = zip(*itertools.islice(train.stream(0, shuffle=False), _WATCHED), strict=True)
        return Split(torch.stack(images), torch.stack(labels))

    def _stop_if_asked(self) -> None:
        """Save where the run stands, in mid-epoch perhaps, and stop, if a signal asked any process for it."""
        number = self.group.greatest(self._stop.received or 0)
        if not number:
            return
        self._steps.asked_to_stop = False
        self._check_finite()
        if self.state.order is not None:
            self.state.epoch_seconds += time.monotonic() - self._epoch_started
        with self.group.together():
            self._save()
        raise Interrupted(signal.Signals(number), self.folder.checkpoint)

    def _check_finite(self, weights: bool = True) -> None:
        """Stop if the loss, or the ``weights``, became NaN or infinite; they are the same in all processes."""
        try:
            check_finite_loss(self.state, self.folder)
            if weights:
                check_finite_weights(self.state, self.folder)
        except DivergenceError as error:
            if self.group.is_main:
                raise
            raise PeerError(str(error)) from None

    def _save(self, at_once: bool = True) -> None:
        if not self.group.is_main:
            return
        self.state.seconds, self._started = self._seconds(), time.monotonic()
        self._writer.save(self.state, self.config, self._data_sha256, at_once)
        self._saved = True

    def _seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self._started
