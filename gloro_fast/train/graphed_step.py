"""A training step of one's own loop as one replay of a CUDA graph."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import proxy

import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError, DataError
from gloro_fast.graph.plan import floating_dtype
from gloro_fast.graph.reads import Reads
from gloro_fast.losses import is_registered
from gloro_fast.net.gloro_net import BatchStatistics, Criterion, GloRoNet
from gloro_fast.pixels import check_batch
from gloro_fast.train.replay import Recorder, Replayed, recorder_for
from gloro_fast.train.setting import has_hooks, setting

_MOST_SHAPES = 8
# Calls in a row before each of which something was set: the first make gradients and the optimizer's state.
_MOST_CHANGES = 10


class GraphedStep:
    """Does training steps: forward pass, bound, loss, backward pass and optimizer, on a GPU as one CUDA graph.

    ::

        step = GraphedStep(net, optimizer, criterion)
        for images, labels in loader:
            loss = step(images, labels)

    The first steps for each shape of a batch are done as they come, then one is captured, and those after it are
    replayed without Python. What is set between two steps counts: epsilon, lambda, learning rates (also by a
    scheduler), ``load_state_dict`` of net or optimizer, frozen parameters, another shape, mode, device or
    hyperparameter, an attribute of a layer or of the criterion; where a graph cannot follow, the step is captured anew.
    On the CPU, in evaluation, with hooks on the net, its parameters, the criterion or the optimizer, for images that
    require a gradient, while anomalies are detected, and where a step cannot be captured, steps are done as they come,
    with the same results.

    What a criterion prints, logs, counts or draws in Python it does at its capture alone. Gradients are those of the
    last step; a captured one writes them where they were before. Weights that autocast has cast are not kept from step
    to step.

    Args:
        net: the net, on its device, or what ``torch.compile`` made of it.
        optimizer: of its parameters. On a GPU its learning rates become tensors and it is made capturable.
        criterion: called as ``criterion(logits, labels)``, or one of this package's.
        max_grad_norm: clip the norm of all gradients together to this, as ``torch.nn.utils.clip_grad_norm_`` does.
        accumulate: add up the gradients of so many calls, of the mean of their losses, before the optimizer steps.

    Attributes:
        why_eager: why steps are not captured, in one line; empty where they are.

    Raises:
        ConfigError: an argument cannot be used.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        criterion: Criterion,
        *,
        max_grad_norm: float | None = None,
        accumulate: int = 1,
    ) -> None:
        inner = getattr(net, "_orig_mod", net)
        if not isinstance(inner, GloRoNet):
            raise ConfigError(f"the net is a {type(net).__name__}; give a GloRoNet, or a compiled one")
        if not isinstance(accumulate, int) or accumulate < 1:
            raise ConfigError(f"accumulate is {accumulate!r}; give a whole number of at least 1")
        if max_grad_norm is not None and not 0 < max_grad_norm < math.inf:
            raise ConfigError(f"max_grad_norm is {max_grad_norm!r}; give a finite number > 0, or None not to clip")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise ConfigError("LBFGS calls for the loss by itself, which no step can hold; choose another optimizer")
        self._net, self._compiled = inner, None if inner is net else net
        self._optimizer, self._criterion = optimizer, criterion
        self._max_grad_norm, self._accumulate = max_grad_norm, accumulate
        self._gradients = self._present_gradients()
        self._calls = 0
        device = _parameters(optimizer)[0].device
        recorder = recorder_for(device)
        self._capture = None if recorder is None else _Captures(inner, optimizer, criterion, recorder, accumulate > 1)
        self.why_eager = "" if self._capture else f"there are no CUDA graphs on {device}"

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Do a step.

        Args:
            images: (B, *input_shape), on the device of the net.
            labels: what the criterion takes, (B,) int64 or (B, m).

        Returns:
            Scalar, the loss of the batch, on the device and without a gradient. Nothing waits for it.

        Raises:
            DataError: images or labels cannot be used.
            ConfigError: gradients were changed since the last step.
        """
        net = self._net
        check_batch(images, net.input_shape, floating_dtype(net.module))
        if len(images) == 0:
            raise DataError("the batch is empty, and its loss no number; give at least one image")
        net.check_labels(labels, len(images), self._criterion)
        place = self._calls % self._accumulate
        # Gradients that a step leaves behind where it raises are none to add to: those are added up from the start.
        self._calls -= place
        self._check_gradients(place == 0)
        self._gradients = {}  # else those of the step before stay in memory during this one
        captured = None if self._capture is None else self._capture.find(images, labels, place, self)
        if captured is None:
            loss = self.learn(images, labels, place)
        else:
            loss = captured.step(images, labels, net)
            self.why_eager = self.why_eager or captured.replayed.why_eager
        self._calls += place + 1
        self._gradients = self._present_gradients()
        return loss

    def learn(self, images: Tensor, labels: Tensor, place: int) -> Tensor:
        """Do a step as it comes: the same operations on the same tensors at every call.

        Args:
            images: checked.
            labels: checked.
            place: the number of this call, from 0, among those that add up their gradients.
        """
        if self._accumulate == 1:
            self._optimizer.zero_grad(set_to_none=True)
            with self._net.bound_gradient_apart() as join:
                loss = self._loss(images, labels)
                loss.backward()  # type: ignore[no-untyped-call]
                join()
        else:
            if place == 0:
                # What several calls add up to must stay where it is.
                self._optimizer.zero_grad(set_to_none=False)
            loss = self._loss(images, labels)
            (loss / self._accumulate).backward()  # type: ignore[no-untyped-call]
        if place == self._accumulate - 1:
            if self._max_grad_norm is not None:
                nn.utils.clip_grad_norm_(_parameters(self._optimizer), self._max_grad_norm)
            self._optimizer.step()
        return loss.detach()

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        called = self._compiled or (self._net if has_hooks(self._net) else None)
        if called is None:
            return self._net.unchecked_loss(images, labels, self._criterion)
        loss: Tensor = called(images, labels, self._criterion)
        return loss

    def _present_gradients(self) -> dict[Tensor, tuple[Tensor, int]]:
        found = ((parameter, parameter.grad) for parameter in _parameters(self._optimizer))
        return {parameter: (grad, grad._version) for parameter, grad in found if grad is not None}

    def _check_gradients(self, may_be_gone: bool) -> None:
        """Refuse gradients that the step would ignore: it drops those of the step before, and adds to its own."""
        for parameter in _parameters(self._optimizer):
            grad, known = parameter.grad, self._gradients.get(parameter)
            if grad is None and (may_be_gone or known is None):
                continue
            if known is None or grad is not known[0] or grad._version != known[1]:
                raise ConfigError(
                    "gradients were changed since the last step, which a step would ignore: set them to None with "
                    "optimizer.zero_grad(), or use max_grad_norm= and accumulate= of GraphedStep"
                )


@dataclass
class _Left:
    """What a step leaves: tensors that a replay writes anew.

    Attributes:
        loss: scalar.
        gradients: of every tensor that has any.
        statistics: in the net.
    """

    loss: Tensor | None = None
    gradients: list[tuple[Tensor, Tensor | None]] = field(default_factory=list)
    statistics: BatchStatistics | None = None


@dataclass
class _Captured:
    """A step for batches of one kind, and the tensors that it reads and writes.

    Attributes:
        images, labels: what it learns from.
        left: what it leaves.
        replayed: the step.
    """

    images: Tensor
    labels: Tensor
    left: _Left
    replayed: Replayed

    def step(self, images: Tensor, labels: Tensor, net: GloRoNet) -> Tensor:
        """Do it, and leave behind what it would have left if it had not been replayed."""
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.replayed()
        left, loss = self.left, self.left.loss
        assert loss is not None
        if not self.replayed.is_recorded:
            left.gradients, left.statistics = [], None  # so that the next step has their memory
            return loss
        for parameter, gradient in left.gradients:
            parameter.grad = gradient
        # The next replay writes other numbers there.
        statistics = left.statistics
        if statistics is None:
            return loss.clone()
        correct, verified = _copies(statistics.correct, statistics.verified)
        loss, lipschitz = _copies(loss, statistics.lipschitz)
        net.batch_statistics = BatchStatistics(correct, verified, lipschitz)
        return loss


def _copies(one: Tensor, other: Tensor) -> tuple[Tensor, ...]:
    """Copy two numbers, of one type in one launch."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return torch.stack((one, other)).unbind() if alike else (one.clone(), other.clone())


class _Captures:
    """The captured steps, as long as what they were captured from stays what it was.

    Args:
        net: the net.
        optimizer: made capturable.
        criterion: the criterion.
        recorder: what captures.
        keeps_gradients: whether steps read the gradients of those before.
    """

    def __init__(
        self,
        net: GloRoNet,
        optimizer: torch.optim.Optimizer,
        criterion: Criterion,
        recorder: Recorder,
        keeps_gradients: bool,
    ) -> None:
        self._net, self._optimizer, self._criterion, self._recorder = net, optimizer, criterion, recorder
        self._keeps_gradients = keeps_gradients
        self._rates: list[Tensor] = []
        self._captured: dict[object, _Captured] = {}
        self._setting: dict[str, object] = {}
        self._reads: Reads | None = None
        self._changes = 0
        self._warned: set[str] = set()

    def find(self, images: Tensor, labels: Tensor, place: int, step: GraphedStep) -> _Captured | None:
        """Return the captured step for a batch like this one; None if it is to be done as it comes."""
        self._follow_rates()
        now = setting(self._net, self._optimizer, self._criterion, self._keeps_gradients)
        if now is None or not self._net.training or images.requires_grad or labels.requires_grad:
            return None
        self._forget_what_changed(now, step)
        key = (images.shape, images.dtype, images.stride(), labels.shape, labels.dtype, place)
        if key not in self._captured and len(self._captured) >= _MOST_SHAPES:
            self._warn(
                "shapes",
                f"GraphedStep holds {_MOST_SHAPES} shapes of batches, each with memory of its own; batches like "
                f"{tuple(images.shape)} are learned from eagerly, slower: drop or pad batches of other sizes",
            )
            return None
        if key not in self._captured:
            self._captured[key] = self._prepare(images, labels, place, step)
        return self._captured[key]

    def _prepare(self, images: Tensor, labels: Tensor, place: int, step: GraphedStep) -> _Captured:
        # What the work refers to does not refer to it, so that a graph is gone, with its memory, when it is dropped.
        left, images, labels, learner = _Left(), torch.empty_like(images), torch.empty_like(labels), proxy(step)
        net, parameters = self._net, [*self._net.parameters(), *_parameters(self._optimizer)]
        if isinstance(self._criterion, nn.Module):
            parameters += self._criterion.parameters()

        def work() -> None:
            with _fresh_casts():
                left.loss = learner.learn(images, labels, place)
            left.gradients = [(parameter, parameter.grad) for parameter in dict.fromkeys(parameters)]
            left.statistics = net.batch_statistics

        return _Captured(images, labels, left, Replayed(work, self._recorder, "the training step"))

    def _follow_rates(self) -> None:
        """Put learning rates that were set since into the tensors that graphs read."""
        groups = self._optimizer.param_groups
        device = _parameters(self._optimizer)[0].device
        kept = len(groups) if self._rates and self._rates[0].device == device else 0
        del self._rates[kept:]
        for group in groups[len(self._rates) :]:
            self._rates.append(torch.as_tensor(group["lr"], dtype=torch.float32, device=device).clone())
        for group, rate in zip(groups, self._rates, strict=True):
            _make_capturable(self._optimizer, group)
            given = group["lr"]
            if given is not rate:
                rate.fill_(given)
                group["lr"] = rate

    def _forget_what_changed(self, now: dict[str, object], step: GraphedStep) -> None:
        changed = [name for name in {**now, **self._setting} if now.get(name) != self._setting.get(name)]
        if not self._net.is_planned():
            changed.append("the net")
        if self._reads is not None and not self._reads.hold():
            changed.append("what the criterion reads")
        if not changed:
            if self._changes > _MOST_CHANGES:
                step.why_eager = ""
            self._changes = 0
            return
        self._changes += 1
        if self._changes > _MOST_CHANGES:
            step.why_eager = f"changed before every step: {', '.join(changed)}"
            self._warn(
                "changes",
                "the training step is not captured as a CUDA graph and runs eagerly, slower, with the same results "
                f"({step.why_eager})",
            )
        self._captured.clear()
        self._setting = now
        self._reads = None if is_registered(self._criterion) else Reads.of(_Holder(self._criterion))

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, RuntimeWarning, stacklevel=4)


@contextmanager
def _fresh_casts() -> Iterator[None]:
    """Let autocast cast anew: a graph would read a cast that was kept from before, and leave one to be read later."""
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


class _Holder(nn.Module):
    """A module that holds a criterion, whatever it is, so that what it may read is found."""

    def __init__(self, criterion: Criterion) -> None:
        super().__init__()
        self.criterion = criterion


def _make_capturable(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> None:
    """Let the optimizer read the learning rate of a group from a tensor, and count its steps on the device."""
    if isinstance(optimizer, torch.optim.SGD) and not group["foreach"]:
        group["fused"] = True  # The others read a tensor's value, for which Python waits.
    if group.get("capturable", True):
        return
    group["capturable"] = True
    for parameter in group["params"]:
        count = optimizer.state[parameter].get("step") if parameter in optimizer.state else None
        if isinstance(count, Tensor):
            optimizer.state[parameter]["step"] = count.to(parameter.device)
