"""The steps of a run on its device: done as they come, or captured once and replayed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from gloro_fast.data import Batches, augmentation, gaussian_noise
from gloro_fast.data.resident import Batch, ResidentBatches
from gloro_fast.losses import Criterion, SampledLoss
from gloro_fast.recipes import Recipe
from gloro_fast.train.epochs import Phase
from gloro_fast.train.objective import robust_loss, sampled_loss, standard_loss
from gloro_fast.train.replay import Recorder, Replayed
from gloro_fast.train.setting import setting
from gloro_fast.train.state import TrainingState

_NAME = "the training step"


class Steps:
    """Does the training steps of a run.

    With a recorder a step is captured for each size of a batch, everything from gathering and augmenting its images to
    the sums of its metrics; epsilon, lambda and learning rate are tensors that the captured step reads. With or without
    one the bits are the same.

    Args:
        recipe: what to train and how.
        state: what the steps change.
        batches: the training split on the training device.
        criterion: of the epochs after warm-up, but for standard training.
        memory_format: of the images.
        recorder: what captures the steps; None to do them eagerly.
    """

    def __init__(
        self,
        recipe: Recipe,
        state: TrainingState,
        batches: Batches,
        criterion: Criterion,
        memory_format: torch.memory_format,
        recorder: Recorder | None,
    ) -> None:
        self._recipe, self._state, self._batches, self._criterion = recipe, state, batches, criterion
        self._memory_format, self._recorder = memory_format, recorder
        self._device = batches.labels.device
        self._augment = augmentation(recipe.augmentation)
        gathers = recorder is not None and batches.is_resident
        self._resident = ResidentBatches(batches, self._augment) if gathers else None
        self._phase: Phase = "warmup"
        self._captured: dict[object, Replayed] = {}
        self._inputs: dict[object, Batch] = {}
        self._setting: dict[str, object] | None = {}

    @property
    def why_eager(self) -> str:
        """Say in one line why a step could not be captured; empty where none failed."""
        return next((replayed.why_eager for replayed in self._captured.values() if replayed.why_eager), "")

    def begin(self, phase: Phase) -> None:
        """Do the steps of ``phase`` from now on."""
        if phase != self._phase:
            self.forget()
        self._phase = phase

    def forget(self) -> None:
        """Drop what was captured, with its memory."""
        self._captured.clear()
        self._inputs.clear()

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Do one step on a batch; see ``Trainer.step``."""
        height, width = images.shape[-2:]
        draws = self._augment.draw(len(images), height, width, self._state.randomness.augmentation)
        if self._recorder is None:
            self._learn(Batch(images, labels, draws.to(images.device)))
        else:
            self._captured_step(images, labels, draws)
        self._count(len(labels))

    def epoch(self, order: Tensor, start: int) -> Iterator[None]:
        """Do the steps of an epoch, from batch ``start`` on; yields after each.

        Args:
            order: (N,) int64 on the CPU.
            start: how many batches were used already.

        Raises:
            ConfigError: ``order`` is no permutation of the split, or ``start`` is outside the epoch.
        """
        if self._resident is None:
            for images, labels in self._batches.epoch(order, start):
                self.step(images, labels)
                yield
            return
        self._batches.check(order, start)
        generator = self._state.randomness.augmentation
        self._resident.begin(order, start, generator)
        for index in range(start, len(self._batches)):
            size = self._batches.size(index)
            self._next(self._resident, size)
            self._resident.advance(generator)
            self._count(size)
            yield

    def _count(self, images: int) -> None:
        self._state.batch += 1
        self._state.sums.count(self._state.batch, images)

    def _learn_next(self, resident: ResidentBatches, size: int) -> None:
        self._learn(resident.take(size))

    def _learn(self, batch: Batch) -> None:
        """Do a step: the same operations on the same tensors at every call."""
        state, recipe, criterion = self._state, self._recipe, self._criterion
        sampled = criterion if isinstance(criterion, SampledLoss) and self._phase != "warmup" else None
        images = self._augment.apply(batch.images, batch.draws).contiguous(memory_format=self._memory_format)
        if recipe.noise and sampled is None:
            images = gaussian_noise(images, recipe.noise, state.randomness.augmentation)
        with state.net.bound_gradient_apart() as join:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                if sampled is not None:
                    generator = state.randomness.augmentation
                    loss, statistics = sampled_loss(state.net, images, batch.labels, sampled, recipe.noise, generator)
                elif self._phase == "robust":
                    loss, statistics = robust_loss(state.net, images, batch.labels, criterion)
                else:
                    loss, statistics = standard_loss(state.net, images, batch.labels)
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            join()
        state.optimizer.step()
        state.sums.record(loss, statistics.correct, statistics.verified, statistics.lipschitz)

    def _captured_step(self, images: Tensor, labels: Tensor, draws: Tensor) -> None:
        if self._calls_python():
            self._learn(Batch(images, labels, draws.to(images.device)))
            return
        key = (images.shape, images.dtype, images.stride())
        if key not in self._inputs:
            batch = Batch(torch.empty_like(images), torch.empty_like(labels), draws.to(images.device))
            self._inputs[key] = batch
            self._captured[key] = Replayed(partial(self._learn, batch), self._recorder, _NAME)
        batch = self._inputs[key]
        batch.images.copy_(images)
        batch.labels.copy_(labels)
        batch.draws.copy_(draws)
        self._captured[key]()

    def _next(self, resident: ResidentBatches, size: int) -> None:
        """Do the step that the resident batches stand at."""
        if self._calls_python():
            self._learn_next(resident, size)
            return
        if size not in self._captured:
            self._captured[size] = Replayed(partial(self._learn_next, resident, size), self._recorder, _NAME)
        self._captured[size]()

    def _calls_python(self) -> bool:
        """Return whether a step cannot be captured now; drop what was captured if anything is not what it was."""
        now = setting(self._state.net, self._state.optimizer, self._criterion)
        if now is not None and (now != self._setting or not self._state.net.is_planned()):
            self.forget()
            self._setting = now
        return now is None
