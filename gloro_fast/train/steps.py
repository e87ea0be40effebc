"""The steps of a run on its device: done as they come, or captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from gloro_fast.data import Batches, SourceBatches, augmentation, gaussian_noise
from gloro_fast.data.resident import Batch, ResidentBatches
from gloro_fast.distributed import ALONE, Group
from gloro_fast.losses import Criterion, SampledLoss
from gloro_fast.net.gloro_net import BatchStatistics
from gloro_fast.recipes import Recipe
from gloro_fast.train.epochs import Phase
from gloro_fast.train.objective import robust_loss, sampled_loss, standard_loss
from gloro_fast.train.replay import Recorder, Replayed
from gloro_fast.train.setting import setting
from gloro_fast.train.shared_gradients import SharedGradients
from gloro_fast.train.state import TrainingState

_NAME = "the training step"
_UPDATE = "update"


class Steps:
    """Does the training steps of a run.

    With a recorder a step is captured for each size of a batch, everything from gathering and augmenting its images to
    the sums of its metrics; epsilon, lambda and learning rate are tensors that the captured step reads. With or without
    one the bits are the same.

    In a group each process learns from its part of every batch. What it captures is then the way to the gradients and
    the update after it, one by itself each; their sum over the processes stands between them.

    Args:
        recipe: what to train and how.
        state: what the steps change.
        batches: the training split on the training device.
        criterion: of the epochs after warm-up, but for standard training.
        memory_format: of the images.
        recorder: what captures the steps; None to do them eagerly.
        group: who shares the batches.

    Attributes:
        asked_to_stop: set it, and the others of the group know of it after the next step.
    """

    def __init__(
        self,
        recipe: Recipe,
        state: TrainingState,
        batches: Batches | SourceBatches,
        criterion: Criterion,
        memory_format: torch.memory_format,
        recorder: Recorder | None,
        group: Group = ALONE,
    ) -> None:
        self._recipe, self._state, self._batches, self._criterion = recipe, state, batches, criterion
        self._memory_format, self._recorder = memory_format, recorder
        self._device = batches.device
        self._augment = augmentation(recipe.augmentation)
        self._resident: ResidentBatches | None = None
        if recorder is not None and isinstance(batches, Batches) and batches.is_resident:
            self._resident = ResidentBatches(batches, self._augment)
        self._phase: Phase = "warmup"
        self._captured: dict[object, Replayed] = {}
        self._inputs: dict[object, Batch] = {}
        self._setting: dict[str, object] | None = {}
        self._group = group
        self._shared = SharedGradients(state.net.parameters(), group) if group.size > 1 else None
        self.asked_to_stop = False

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
        count = len(labels)
        if self._shared is not None:
            part = self._group.part(count)
            images, labels = images[part], labels[part]
        self._step(images, labels, count)

    def epoch(self, order: Tensor, start: int) -> Iterator[None]:
        """Do the steps of an epoch, from batch ``start`` on; yields after each.

        Args:
            order: (N,) int64 on the CPU.
            start: how many batches were used already.

        Raises:
            ConfigError: ``order`` is no permutation of the split, or ``start`` is outside the epoch.
        """
        if self._resident is None:
            for index, (images, labels) in enumerate(self._batches.epoch(order, start), start):
                count = len(labels) if self._shared is None else self._batches.size(index)
                self._step(images, labels, count)
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

    def wants_stop(self) -> bool:
        """Return whether ``asked_to_stop`` was set in any process before the last step; waits for the device."""
        return self._shared is not None and self._shared.wants_stop()

    def _step(self, images: Tensor, labels: Tensor, count: int) -> None:
        """Do one step on this process's part of a batch of ``count``."""
        height, width = images.shape[-2:]
        draws = self._augment.draw(count, height, width, self._state.randomness.augmentation)
        if self._shared is not None:
            draws = draws[self._group.part(count)]
        if self._recorder is None:
            self._learn(Batch(images, labels, draws.to(images.device)), count)
        else:
            self._captured_step(images, labels, draws, count)
        self._count(count)

    def _count(self, images: int) -> None:
        self._state.batch += 1
        self._state.sums.count(self._state.batch, images)

    def _learn(self, batch: Batch, count: int) -> None:
        """Do a step."""
        if self._shared is None:
            self._update(*self._gradients(batch, count))
        else:
            self._collect(lambda: batch, count)
            self._shared.exchange(self.asked_to_stop)
            self._update_shared()

    def _gradients(self, batch: Batch, count: int) -> tuple[Tensor, BatchStatistics]:
        """Give the parameters the gradients of a batch: the same operations on the same tensors at every call."""
        state, recipe, criterion = self._state, self._recipe, self._criterion
        sampled = criterion if isinstance(criterion, SampledLoss) and self._phase != "warmup" else None
        generator, part = state.randomness.augmentation, None if self._shared is None else self._group.part(count)
        images = self._augment.apply(batch.images, batch.draws).contiguous(memory_format=self._memory_format)
        if recipe.noise and sampled is None:
            images = gaussian_noise(images, recipe.noise, generator, part, count)
        with state.net.bound_gradient_apart() as join:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                if sampled is not None:
                    noisy = recipe.noise, generator, part, count
                    loss, statistics = sampled_loss(state.net, images, batch.labels, sampled, *noisy)
                elif self._phase == "robust":
                    loss, statistics = robust_loss(state.net, images, batch.labels, criterion)
                else:
                    loss, statistics = standard_loss(state.net, images, batch.labels)
            state.optimizer.zero_grad(set_to_none=True)
            weight = None if self._shared is None else torch.full_like(loss, self._group.weight(count))
            loss.backward(weight)  # type: ignore[no-untyped-call]
            join()
        return loss, statistics

    def _update(self, loss: Tensor, statistics: BatchStatistics) -> None:
        self._state.optimizer.step()
        self._state.sums.record(loss, statistics.correct, statistics.verified, statistics.lipschitz)

    def _collect(self, take: Callable[[], Batch], count: int) -> None:
        """Put the gradients of this process's part of a batch where they are summed."""
        assert self._shared is not None
        loss, found = self._gradients(take(), count)
        self._shared.collect(self._group.weight(count), loss, found.correct, found.verified, found.lipschitz)

    def _update_shared(self) -> None:
        assert self._shared is not None
        self._state.optimizer.step()
        self._state.sums.record(*self._shared.statistics)

    def _captured_step(self, images: Tensor, labels: Tensor, draws: Tensor, count: int) -> None:
        if self._calls_python():
            self._learn(Batch(images, labels, draws.to(images.device)), count)
            return
        key = (images.shape, images.dtype, images.stride(), count)
        if key not in self._inputs:
            self._inputs[key] = Batch(torch.empty_like(images), torch.empty_like(labels), draws.to(images.device))
        batch = self._inputs[key]
        batch.images.copy_(images)
        batch.labels.copy_(labels)
        batch.draws.copy_(draws)
        self._replay(key, lambda: batch, count)

    def _next(self, resident: ResidentBatches, size: int) -> None:
        """Do the step that the resident batches stand at."""
        if self._calls_python():
            self._learn(resident.take(size), size)
        else:
            self._replay(size, partial(resident.take, size), size)

    def _replay(self, key: object, take: Callable[[], Batch], count: int) -> None:
        """Do a step on the batch of ``count`` that ``take`` gives, captured for ``key``."""
        if self._shared is None:
            self._replayed(key, lambda: self._learn(take(), count))()
            return
        self._replayed(key, partial(self._collect, take, count))()
        self._shared.exchange(self.asked_to_stop)
        self._replayed(_UPDATE, self._update_shared)()

    def _replayed(self, key: object, work: Callable[[], None]) -> Replayed:
        if key not in self._captured:
            self._captured[key] = Replayed(work, self._recorder, _NAME)
        return self._captured[key]

    def _calls_python(self) -> bool:
        """Return whether a step cannot be captured now; drop what was captured if anything is not what it was."""
        now = setting(self._state.net, self._state.optimizer, self._criterion)
        if now is not None and (now != self._setting or not self._state.net.is_planned()):
            self.forget()
            self._setting = now
        return now is None
