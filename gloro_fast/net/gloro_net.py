"""GloRoNet: a classifier with one more logit, bottom, that wins where the prediction cannot be certified."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# torch.compiler.disable for a method would import the whole compiler with this package: seconds.
from torch._compile import _disable_dynamo
from torch.nn.utils import parametrize

from gloro_fast import ops
from gloro_fast.bounds import general_difference_bounds
from gloro_fast.errors import ConfigError
from gloro_fast.graph.plan import Margins, device_of, floating_dtype, make_plan
from gloro_fast.graph.training_rules import TrainingRules
from gloro_fast.losses import AllMarginsLoss, MarginCriterion, is_registered
from gloro_fast.net.iterates import Iterates
from gloro_fast.net.pretrained import PretrainedNet
from gloro_fast.nn.fourier_conv import BROConv2d, CayleyConv2d
from gloro_fast.nn.weights_once import weights_once
from gloro_fast.ops.capturing import is_capturing
from gloro_fast.ops.exporting import is_exporting
from gloro_fast.ops.image_codes import NOT_FINITE
from gloro_fast.ops.labels import check_labels, class_indices, with_bottom
from gloro_fast.ops.sequence_loss_op import sequence_loss
from gloro_fast.ops.statistics import count
from gloro_fast.ops.verdict import LOGITS_NOT_FINITE
from gloro_fast.pixels import check_batch
from gloro_fast.rules.registry import Diagonal, LinearMap

Criterion = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class BatchStatistics:
    """Counts of the last batch that ``forward`` saw with labels, left on its device so that no step waits.

    Attributes:
        correct: scalar int64, images whose largest class logit is the label's.
        verified: scalar int64, those of them certified at the net's epsilon.
        lipschitz: scalar, K as the batch saw it: in training the estimate of that step.
    """

    correct: Tensor
    verified: Tensor
    lipschitz: Tensor


class _Logits(NamedTuple):
    """m + 1 logits (B, m + 1), predictions (B,), certified or not (B,), and the K they rest on."""

    output: Tensor
    prediction: Tensor
    certified: Tensor
    lipschitz: Tensor


class GloRoNet(PretrainedNet):
    """A GloRo net around ``module`` (Leino, Wang, Fredrikson 2021, Section 2.2).

    In training, the forward pass runs ``power_iterations`` power iterations on every layer and gives m + 1 logits
    through which gradients flow into the Lipschitz constant. In evaluation the constant is found once, by a named
    method, and bound to a fingerprint of all weights: after any change it is found anew, or, on a net frozen
    explicitly, refused.

    Args:
        module: anything that consists of layers and operations with Lipschitz rules, from (B, *input_shape) to logits
            (B, m), without a softmax. Its ``forward`` is captured as a graph, which is what is executed and bounded.
        epsilon: l2 radius >= 0 to certify, in units of the input.
        input_shape: shape of one input, such as (1, 28, 28).
        power_iterations: power iterations a training step.
        margins: ``"rows"`` for the tightest known constants of margins, from the rows of the last dense layer where
            each logit is made of one of them; ``"whole"`` for K_ij = sqrt(2) K with K of the whole net, as Lipschitz
            margin training has them. ``margin_form`` tells what came of it.

    Attributes:
        module: the classifier f.
        iterates: the power iterates, float32 buffers that are part of the ``state_dict``.
        batch_statistics: counts of the last forward pass with labels, or None.

    Raises:
        ConfigError: epsilon, power_iterations or margins cannot be used.
        UnknownLayerError: a layer has no known Lipschitz constant.
        ArchitectureError: shapes do not fit, fewer than two classes, odd channels before MinMax, a head that
            shares a parameter, hooks.
    """

    # Weights, and as what the bound reads them while its gradient is kept apart.
    _apart: dict[Tensor, Tensor] | None = None

    def __init__(
        self,
        module: nn.Module,
        epsilon: float,
        input_shape: tuple[int, ...],
        power_iterations: int = 5,
        margins: Margins = "rows",
    ) -> None:
        if not isinstance(power_iterations, int) or power_iterations < 1:
            raise ConfigError(f"power_iterations is {power_iterations}; give a whole number of at least 1")
        super().__init__(module, epsilon, input_shape, margins)
        self.power_iterations = power_iterations
        self._plan_training()
        self.iterates = Iterates(self._training_plan.linear_maps())
        self.batch_statistics: BatchStatistics | None = None

    def forward(self, x: Tensor, labels: Tensor | None = None, criterion: Criterion | None = None) -> Tensor:
        """Return the m + 1 logits, bottom last, or with ``labels`` and ``criterion`` the loss.

        In evaluation bottom is a constant to autograd, and the class logits of an image that is not finite, or gives
        logits that are not, are -inf beside a bottom of +inf.

        Args:
            x: (B, *input_shape).
            labels: (B,) int64 in [0, m) or the criterion's ``ignore_index``; or, but for losses of all margins, (B, m)
                of a floating dtype, the probability of each class.
            criterion: called as ``criterion(logits, labels)``, or, if it is one of this package's and the net is
                in training, computed together with the margin; counts of the batch are then left in
                ``batch_statistics``.

        Returns:
            (B, m + 1) of the logits' dtype, at least float32; or what the criterion returns.

        Raises:
            DataError: images of another shape or type, or labels that are no classes.
            ConfigError: only one of ``labels`` and ``criterion`` is given.
            StaleBoundError: in evaluation, the net is frozen and its weights have changed.
        """
        if (labels is None) != (criterion is None):
            raise ConfigError("labels and criterion go together; give both for a loss, neither for logits")
        check_batch(x, self._input_shape, floating_dtype(self.module))
        if labels is None or criterion is None:
            return self._training_logits(x).output if self.training else self._evaluation_logits(x).output
        self.check_labels(labels, len(x), criterion)
        return self.unchecked_loss(x, labels, criterion)

    def loss(self, x: Tensor, labels: Tensor, criterion: Criterion) -> Tensor:
        """Return the loss of a batch: the same as ``net(x, labels, criterion)``."""
        result: Tensor = self(x, labels, criterion)
        return result

    def check_labels(self, labels: Tensor, rows: int, criterion: Criterion) -> None:
        """Refuse labels that are no classes of a batch of ``rows`` images for ``criterion``.

        Raises:
            DataError: names what is wrong with them; on an accelerator, labels out of range stop the process later.
        """
        soft = not isinstance(criterion, AllMarginsLoss)
        # What they call asserts the range on the device, in a launch that it makes anyway.
        apart = not (self.training and is_registered(criterion) and criterion.is_margin_loss)
        check_labels(labels, rows, self.num_classes, getattr(criterion, "ignore_index", None), soft, apart)

    def unchecked_loss(self, x: Tensor, labels: Tensor, criterion: Criterion) -> Tensor:
        """Return the loss of a batch as :meth:`forward` does, for images and labels that were checked before."""
        if self.training and is_registered(criterion):
            return self._fused_loss(x, labels, criterion)
        logits = self._training_logits(x) if self.training else self._evaluation_logits(x)
        self._count(labels, logits.prediction, logits.certified, logits.lipschitz)
        if isinstance(criterion, AllMarginsLoss):
            differences = self._current().differences.to(logits.output.dtype)
            margin = (logits.output[:, :-1], differences, logits.lipschitz, self._epsilon.read(x.device))
            return criterion.reduce(criterion.with_margin(*margin, labels)[0])
        return with_bottom(criterion, logits.output, labels)

    @contextmanager
    def bound_gradient_apart(self) -> Iterator[Callable[[], None]]:
        """Keep the gradient that parameters get through the bound apart from the other, to be joined at once.

        Autograd adds the two weight by weight, in a launch each. Within the block the bound reads the parameters under
        other names; what is yielded, called after the backward pass, adds the gradients of those in one launch. The
        bits are the same, unless there were gradients before. Parameters with hooks keep to autograd.
        """
        apart: dict[Tensor, Tensor] = {}
        self._apart = apart
        try:
            yield lambda: _join_gradients(apart)
        finally:
            self._apart = None

    def _training_logits(self, x: Tensor) -> _Logits:
        logits, lipschitz, differences = self._training_margin(x)
        epsilon = self._epsilon.read(logits.device)
        with _without_autocast(x.device):
            bottom, prediction, radius = ops.margin(logits, differences, lipschitz, epsilon)
        output = torch.cat([logits.to(bottom.dtype), bottom[:, None]], dim=1)
        return _Logits(output, prediction, radius > epsilon, lipschitz)

    def _fused_loss(self, x: Tensor, labels: Tensor, criterion: MarginCriterion) -> Tensor:
        """Return what ``criterion(net(x), labels)`` returns, if anything, from one pass over the class logits."""
        if not torch.compiler.is_compiling() and self._apart is None and not is_capturing(x.device):
            if not self.is_planned():
                self._replan_training()
            with self._weights_once():
                logits = self._training_plan.run(x)
                loss = self._sequence_loss(logits, labels, criterion)
                if loss is not None:
                    return loss
                lipschitz, differences = self._training_bound(x.device)
        else:
            logits, lipschitz, differences = self._training_margin(x)
        epsilon = self._epsilon.read(logits.device)
        with _without_autocast(x.device):
            losses, prediction, certified = criterion.with_margin(logits, differences, lipschitz, epsilon, labels)
            self._count(labels, prediction, certified, lipschitz)
            return criterion.reduce(losses)

    def _sequence_loss(self, logits: Tensor, labels: Tensor, criterion: MarginCriterion) -> Tensor | None:
        """Return the loss of a net that is a sequence of layers with a head; None where it is to be composed."""
        plan = self._training_plan
        if plan.head is None or plan.head.tail or not plan.composition.is_sequence:
            return None
        if not criterion.is_mean_of_margin_loss(labels):
            return None
        (head,) = self._head_rule.now()
        maps, factor = [], 1.0
        for rule in self._rules.now():
            if isinstance(rule, Diagonal) or not isinstance(rule.factor, float):
                return None
            factor *= rule.factor
            if isinstance(rule, LinearMap):
                maps.append(rule)
        assert isinstance(head, LinearMap)
        found = sequence_loss(
            logits,
            head.weight,
            [linear.weight for linear in maps],
            self.iterates.vectors(),
            [linear.geometry for linear in maps],
            self.power_iterations,
            factor,
            self._epsilon.read(logits.device),
            labels,
            criterion.name,
            criterion.lam_on(logits.device),
        )
        if found is None:
            return None
        self.iterates.move_to(found.iterates)
        self._count(labels, found.prediction, found.certified, found.lipschitz)
        return found.loss

    def _training_margin(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the class logits (B, m), the estimate of K and the head's differences (m, m), all differentiable."""
        if not self.is_planned():
            self._replan_training()
        if _is_captured(x.device) and self._bound_is_apart():
            with _second_stream(x.device) as stream:
                lipschitz, differences = self._training_bound(x.device)
            logits = self._training_plan.run(x)
            torch.cuda.current_stream(x.device).wait_stream(stream)
        else:
            with self._weights_once():
                logits = self._training_plan.run(x)
                lipschitz, differences = self._training_bound(x.device)
        return logits, lipschitz, differences

    def _weights_once(self) -> AbstractContextManager[None]:
        """Compute each weight that is made of parameters once, for the forward pass and for the bound."""
        # Made twice, a step of two CayleyLinear of 512 takes 1.97 of stock PyTorch's, once 1.03 (orthogonal_step.py).
        return weights_once() if self._makes_weights and not torch.compiler.is_compiling() else nullcontext()

    def _bound_is_apart(self) -> bool:
        """Return whether the bound reads nothing that a forward pass makes, such as a BatchNorm's running variance."""
        buffers = any(True for _ in self.module.buffers())
        effects = any(node.is_effect for node in self._training_plan.nodes)
        return not (buffers or effects or self._makes_weights)

    def _training_bound(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the estimate of K and the head's differences (m, m), both differentiable."""
        with _without_autocast(device):
            lipschitz = self._training_lipschitz()
            return lipschitz, self._training_differences(lipschitz)

    def is_planned(self) -> bool:
        """Return whether the graph that a training step runs is that of the module as it is now."""
        plan = self._training_plan
        # What a forward reads cannot be listed by a compiler, which looks at the attributes that it used itself.
        if torch.compiler.is_compiling():
            return plan.fits_modules(self.module)
        return plan.fits(self.module) and plan.fits_modes()

    def _training_lipschitz(self) -> Tensor:
        """Return the differentiable estimate of K and move the iterates on."""
        plan = self._training_plan
        rules = self._rules.now()
        numbers = [1.0 if isinstance(rule, Diagonal) else rule.factor for rule in rules]
        which = [index for index, rule in enumerate(rules) if isinstance(rule, LinearMap)]
        maps = [rule for rule in rules if isinstance(rule, LinearMap)]
        if maps:
            found, v_new, _ = ops.power_iteration(
                [self._as_bounded(linear.weight) for linear in maps],
                self.iterates.vectors(),
                [linear.geometry for linear in maps],
                self.power_iterations,
                multiprocessors=None,
            )
            self.iterates.move_to(v_new)
        else:
            dtype = torch.promote_types(floating_dtype(self.module), torch.float32)
            found = torch.ones(0, dtype=dtype, device=plan.device)
        for index, rule in enumerate(rules):
            if isinstance(rule, Diagonal):
                numbers[index] = rule.scale.abs().amax().to(found.dtype)
        return plan.composition.estimate(numbers, which, found)

    def _training_differences(self, like: Tensor) -> Tensor:
        head = self._training_plan.head
        if head is not None:
            (rule,) = self._head_rule.now()
            assert isinstance(rule, LinearMap)
            return head.differences(self._as_bounded(rule.weight))
        return general_difference_bounds(self.num_classes, like.device).to(like.dtype)

    def _as_bounded(self, weight: Tensor) -> Tensor:
        """Return the weight as the bound is to read it."""
        if self._apart is None or not (weight.is_leaf and weight.requires_grad):
            return weight
        if weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None):
            return weight
        if weight not in self._apart:
            self._apart[weight] = weight.detach().requires_grad_()
        return self._apart[weight]

    def _evaluation_logits(self, x: Tensor) -> _Logits:
        if torch.compiler.is_compiling() and not self._frozen and not is_exporting():
            outside: _Logits = self._untraced_evaluation_logits(x)
            return outside
        found = self._evaluate(x, self.epsilon)
        logits, bottom, certified = found.logits, found.bottom, found.certified
        with torch.no_grad():
            # A NaN or +inf among the class logits would win an argmax against any bottom.
            if found.codes is not None:
                finite = (found.codes & (NOT_FINITE | LOGITS_NOT_FINITE)) == 0
            else:
                # An infinite pixel may leave finite logits behind a ReLU; a sum tells of it in one pass, but not in
                # float16, whose largest number is the sum of an image of 3 x 224 x 224.
                sums = x.flatten(1).sum(dim=1, dtype=torch.promote_types(x.dtype, torch.float32))
                finite = logits.isfinite().all(dim=1) & sums.isfinite()
                bottom = torch.where(finite, bottom, torch.inf)
                certified = finite & certified
        output = torch.cat([torch.where(finite[:, None], logits, -torch.inf), bottom[:, None]], dim=1)
        # Filled in, not copied from the host.
        lipschitz = logits.new_full((), found.bound.network.lipschitz)
        return _Logits(output, found.prediction, certified, lipschitz)

    @_disable_dynamo
    def _untraced_evaluation_logits(self, x: Tensor) -> _Logits:
        """Look at the weights, and bound them anew if they changed: nothing that a graph could hold."""
        return self._evaluation_logits(x)

    @_disable_dynamo
    def _replan_training(self) -> None:
        """Look at the module anew as it is in training: layers may have been replaced, or the mode has changed."""
        self._plan_training()
        self.iterates.fit(self._training_plan.linear_maps())

    def _plan_training(self) -> None:
        plan = self._plan.in_training(self.module)
        if plan is None:
            plan = make_plan(self.module, self.input_shape, True, self._margins)
        self._training_plan = plan
        self._makes_weights = any(
            parametrize.is_parametrized(layer) or isinstance(layer, BROConv2d | CayleyConv2d)
            for layer in self.module.modules()
        )
        self._rules = TrainingRules(plan.parts)
        self._head_rule = TrainingRules([] if plan.head is None else [plan.head.dense])

    def _count(self, labels: Tensor, prediction: Tensor, certified: Tensor, lipschitz: Tensor) -> None:
        correct, verified = count(class_indices(labels), prediction, certified)
        self.batch_statistics = BatchStatistics(correct, verified, lipschitz.detach())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GloRoNet:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._signed is not None:
            # The plan still is that of the device before.
            self._signed = self._signed.to(device_of(self.module))
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "batch_statistics": None, "_executed": None}


def _without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    # Entering and leaving it takes 7 microseconds.
    if torch.is_autocast_enabled(device.type) or torch.compiler.is_compiling():
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _join_gradients(apart: dict[Tensor, Tensor]) -> None:
    """Add the gradients of the values to those of the keys, and forget them."""
    here, there = [], []
    for weight, alias in apart.items():
        if alias.grad is None:
            continue
        if weight.grad is None:
            weight.grad = alias.grad
        else:
            here.append(weight.grad)
            there.append(alias.grad)
    if here:
        with torch.no_grad():
            torch._foreach_add_(here, there)
    apart.clear()


def _is_captured(device: torch.device) -> bool:
    # Outside of a capture nothing waits for the GPU but Python, so that a second stream gains nothing there.
    return not torch.compiler.is_compiling() and is_capturing(device)


@lru_cache
def _stream_beside(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _second_stream(device: torch.device) -> Iterator[torch.cuda.Stream]:
    """Put work on a second stream, from here on: what does not depend on the batch goes beside the forward pass."""
    stream = _stream_beside(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield stream
