"""A training step of one's own loop as one replay of a CUDA graph."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from gloro_fast.certify import check_batch
from gloro_fast.errors import ConfigError
from gloro_fast.graph.reads import Reads
from gloro_fast.losses import MarginCriterion
from gloro_fast.model import BatchStatistics, Criterion, GloRoNet
from gloro_fast.plan import floating_dtype
from gloro_fast.train.replay import Recorder, Replayed, recorder_for
from gloro_fast.train.steps import addresses

_MOST_SHAPES = 8


class GraphedStep:
    """Does training steps: forward pass, bound, loss, backward pass and optimizer, on a GPU as one CUDA graph.

    ::

        step = GraphedStep(net, optimizer, criterion)
        for images, labels in loader:
            loss = step(images, labels)

    The first steps for each shape of a batch are done as they come, then one is captured, and those after it are
    replayed without Python. What is set between two steps counts: epsilon, lambda, learning rates (also by a
    scheduler), ``load_state_dict`` of net or optimizer, another shape, mode, device or hyperparameter, an attribute of
    a layer or of the criterion; where a graph cannot follow, the step is captured anew. On the CPU, in evaluation, with
    hooks on the net, its parameters or the optimizer, and where a step cannot be captured, steps are done as they come,
    with the same results.

    What a criterion prints, logs or counts in Python it does at its capture alone.

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
        net.check_labels(labels, len(images), self._criterion)
        place = self._calls % self._accumulate
        self._check_gradients(place == 0)
        captured = None if self._capture is None else self._capture.find(images, labels, place, self)
        if captured is None:
            loss = self.learn(images, labels, place)
        else:
            loss = captured.step(images, labels, _parameters(self._optimizer), net)
            self.why_eager = self.why_eager or captured.replayed.why_eager
        self._calls += 1
        self._gradients = self._present_gradients()
        return loss

    def learn(self, images: Tensor, labels: Tensor, place: int) -> Tensor:
        """Do a step as it comes: the same operations on the same tensors at every call.

        Args:
            images: checked.
            labels: checked.
            place: the number of this call, from 0, among those that add up their gradients.
        """
        if place == 0:
            # What several calls add up to must stay where it is.
            self._optimizer.zero_grad(set_to_none=self._accumulate == 1)
        with self._net.bound_gradient_apart() as join:
            loss = self._loss(images, labels)
            (loss if self._accumulate == 1 else loss / self._accumulate).backward()  # type: ignore[no-untyped-call]
            join()
        if place == self._accumulate - 1:
            if self._max_grad_norm is not None:
                nn.utils.clip_grad_norm_(_parameters(self._optimizer), self._max_grad_norm)
            self._optimizer.step()
        return loss.detach()

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        called = self._compiled or (self._net if _hooks(self._net) else None)
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
class _Captured:
    """A step for batches of one kind, and the tensors that it reads and writes.

    Attributes:
        images, labels: what it learns from.
        loss: scalar, what it writes.
        replayed: the step.
        gradients: what it leaves in the parameters.
        statistics: what it leaves in the net.
    """

    images: Tensor
    labels: Tensor
    loss: Tensor
    replayed: Replayed
    gradients: list[Tensor | None] = field(default_factory=list)
    statistics: BatchStatistics | None = None

    def step(self, images: Tensor, labels: Tensor, parameters: list[Tensor], net: GloRoNet) -> Tensor:
        """Do it, and leave behind what it would have left if it had not been replayed."""
        self.images.copy_(images)
        self.labels.copy_(labels)
        self.replayed()
        if self.replayed.is_recorded:
            for parameter, gradient in zip(parameters, self.gradients, strict=True):
                parameter.grad = gradient
            net.batch_statistics = self.statistics
        # The next replay writes another loss there.
        return self.loss.clone()


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
        self._setting: list[object] = []
        self._reads: Reads | None = None
        self._warned = False

    def find(self, images: Tensor, labels: Tensor, place: int, step: GraphedStep) -> _Captured | None:
        """Give the captured step for a batch like this one; None if it is to be done as it comes."""
        self._follow_rates()
        if not self._net.training or _hooks(self._net) or _optimizer_hooks(self._optimizer):
            return None
        self._forget_what_changed()
        key = (images.shape, images.dtype, images.stride(), labels.shape, labels.dtype, place)
        if key not in self._captured and len(self._captured) >= _MOST_SHAPES:
            self._warn_of_shapes(images.shape)
            return None
        if key not in self._captured:
            self._captured[key] = self._prepare(images, labels, place, step)
        return self._captured[key]

    def _prepare(self, images: Tensor, labels: Tensor, place: int, step: GraphedStep) -> _Captured:
        def work() -> None:
            captured.loss.copy_(step.learn(captured.images, captured.labels, place))
            captured.gradients = [parameter.grad for parameter in _parameters(self._optimizer)]
            captured.statistics = self._net.batch_statistics

        dtype = torch.promote_types(floating_dtype(self._net.module), torch.float32)
        captured = _Captured(
            torch.empty_like(images),
            torch.empty_like(labels),
            torch.zeros((), dtype=dtype, device=images.device),
            Replayed(work, self._recorder, "the training step"),
        )
        return captured

    def _follow_rates(self) -> None:
        """Put learning rates that were set since into the tensors that graphs read."""
        groups = self._optimizer.param_groups
        self._rates += [_make_capturable(self._optimizer, group) for group in groups[len(self._rates) :]]
        for group, rate in zip(groups, self._rates, strict=True):
            given = group["lr"]
            if given is not rate:
                rate.fill_(given)
                group["lr"] = rate

    def _forget_what_changed(self) -> None:
        setting = self._present_setting()
        unchanged = self._net.is_planned() and (self._reads is None or self._reads.hold())
        if unchanged and setting == self._setting:
            return
        self._captured.clear()
        self._setting = setting
        # Of this package's criteria, lambda is read by the kernels; the rest is in the setting.
        self._reads = None if isinstance(self._criterion, MarginCriterion) else Reads.of(_Holder(self._criterion))

    def _present_setting(self) -> list[object]:
        """List what a graph holds as it was: where tensors are, and the numbers that Python hands to operations."""
        device = self._rates[0].device.type
        groups = [
            (name, id(value) if isinstance(value, Tensor | list) else value)
            for group in self._optimizer.param_groups
            for name, value in group.items()
            if name not in _NOT_IN_A_STEP
        ]
        criterion: list[object] = []
        if isinstance(self._criterion, nn.Module):
            criterion += [tensor.data_ptr() for tensor in (*self._criterion.parameters(), *self._criterion.buffers())]
            criterion += [child.training for child in self._criterion.modules()]
        if isinstance(self._criterion, MarginCriterion):
            criterion += [self._criterion.reduction, self._criterion.ignore_index, self._criterion.name]
        grads = [p.grad for p in _parameters(self._optimizer)] if self._keeps_gradients else []
        return [
            addresses(self._net, self._optimizer),
            [None if grad is None else grad.data_ptr() for grad in grads],
            groups,
            criterion,
            self._net.power_iterations,
            torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
            torch.are_deterministic_algorithms_enabled(),
            torch.get_float32_matmul_precision(),
        ]

    def _warn_of_shapes(self, shape: torch.Size) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"GraphedStep holds {_MOST_SHAPES} shapes of batches, each with memory of its own; batches like "
                f"{tuple(shape)} are learned from eagerly, slower: drop or pad batches of other sizes",
                RuntimeWarning,
                stacklevel=4,
            )


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


# Parameters are looked at by their places; rates are tensors; schedulers keep their own numbers in a group.
_NOT_IN_A_STEP = ("params", "lr", "initial_lr", "max_lr", "min_lr", "swa_lr", "param_names")


class _Holder(nn.Module):
    """A module that holds a criterion, whatever it is, so that what it may read is found."""

    def __init__(self, criterion: Criterion) -> None:
        super().__init__()
        self.criterion = criterion


def _make_capturable(optimizer: torch.optim.Optimizer, group: dict[str, Any]) -> Tensor:
    """Let the optimizer read the learning rate of a group from a tensor, and count its steps on the device."""
    device = group["params"][0].device
    rate = torch.as_tensor(group["lr"], dtype=torch.float32, device=device).clone()
    group["lr"] = rate
    if isinstance(optimizer, torch.optim.SGD) and not group["foreach"]:
        group["fused"] = True  # The others read a tensor's value, for which Python waits.
    if "capturable" in group:
        group["capturable"] = True
    for parameter in group["params"]:
        count = optimizer.state[parameter].get("step") if parameter in optimizer.state else None
        if isinstance(count, Tensor):
            optimizer.state[parameter]["step"] = count.to(device)
    return rate


def _hooks(net: GloRoNet) -> bool:
    """Whether Python is to be called in the middle of a step, which no graph does."""
    return any(
        module._backward_hooks or module._backward_pre_hooks or (module is net and _forward_hooks(module))
        for module in net.modules()
    ) or any(
        parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None)
        for parameter in net.parameters()
    )


def _forward_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _optimizer_hooks(optimizer: torch.optim.Optimizer) -> bool:
    return bool(optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)
