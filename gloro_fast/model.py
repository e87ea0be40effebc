"""GloRoNet: a classifier with one more logit, bottom, that wins where the prediction cannot be certified."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

# torch.compiler.disable for a method would import the whole compiler with this package: seconds.
from torch._compile import _disable_dynamo

from gloro_fast import ops
from gloro_fast.bounds import DEFAULT_METHOD, NetworkBound, bound_work, check_method, general_difference_bounds
from gloro_fast.certify import Certificate, certify_logits, check_batch, check_images
from gloro_fast.errors import ConfigError, FrozenError, StaleBoundError
from gloro_fast.executed import ExecutedNet, check_settings
from gloro_fast.iterates import Iterates
from gloro_fast.lmt_loss import LmtLoss
from gloro_fast.losses import CrossEntropyLoss, EmmaLoss, MarginCriterion, TradesLoss, check_labels
from gloro_fast.nn.rules import Diagonal, LinearMap
from gloro_fast.plan import Margins, evaluation_mode, floating_dtype, make_plan
from gloro_fast.signed_bound import SignedBound, look_again, present_fingerprint, sign, weights_are_signed

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


class GloRoNet(nn.Module):
    """A GloRo net around ``module`` (Leino, Wang, Fredrikson 2021, Section 2.2).

    In training, the forward pass runs ``power_iterations`` power iterations on every layer and gives m + 1 logits
    through which gradients flow into the Lipschitz constant. In evaluation the constant is found once, by a named
    method, and bound to a fingerprint of all weights: after any change it is found anew, or, on a net frozen
    explicitly, refused.

    Args:
        module: anything that ``torch.fx`` can trace into layers and functions with Lipschitz rules, from
            (B, *input_shape) to logits (B, m), without a softmax. The traced graph is what is executed and bounded.
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

    def __init__(
        self,
        module: nn.Module,
        epsilon: float,
        input_shape: tuple[int, ...],
        power_iterations: int = 5,
        margins: Margins = "rows",
    ) -> None:
        super().__init__()
        if not isinstance(power_iterations, int) or power_iterations < 1:
            raise ConfigError(f"power_iterations is {power_iterations}; give a whole number of at least 1")
        if margins not in ("rows", "whole"):
            raise ConfigError(f"margins is {margins!r}; choose 'rows' or 'whole'")
        self.module = module
        self._margins: Margins = margins
        self._input_shape = _checked_shape(input_shape)
        self.power_iterations = power_iterations
        self._epsilon = _checked_epsilon(epsilon)
        self._plan = make_plan(module, self.input_shape, margins=margins)
        self._training_plan = make_plan(module, self.input_shape, True, margins)
        if isinstance(self._plan.nodes[self._plan.output].operation, nn.Softmax):
            warnings.warn(
                "the module ends in a Softmax; logits are expected, so certified radii will be small: remove it",
                stacklevel=2,
            )
        self.iterates = Iterates(self._training_plan.linear_maps())
        self.batch_statistics: BatchStatistics | None = None
        self._method = DEFAULT_METHOD
        self._frozen = False
        self._signed: SignedBound | None = None
        self._executed: ExecutedNet | None = None

    @property
    def epsilon(self) -> float:
        """The l2 radius that the bottom logit stands for. Setting it on a frozen net raises ``FrozenError``."""
        return self._epsilon

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        checked = _checked_epsilon(value)
        if self._frozen and checked != self._epsilon:
            raise FrozenError(
                f"epsilon is frozen at {self._epsilon:g}; call unfreeze() before setting it to {checked:g}, or pass "
                "epsilon to certify()"
            )
        self._epsilon = checked

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one input. The bound holds for it, so that it cannot be changed."""
        return self._input_shape

    @property
    def num_classes(self) -> int:
        """The number m of classes, bottom not among them."""
        return self._plan.num_classes

    @property
    def margin_form(self) -> str:
        """Which constants K_ij margins have, and the rows of which layer they are made of, in one line."""
        return self._plan.margin_form

    @property
    def lipschitz(self) -> float:
        """K of everything before the head, or of all layers without one (see ``margin_form``); see ``bound``."""
        return self.bound.lipschitz

    @property
    def bound(self) -> NetworkBound:
        """The Lipschitz constant with its method and layers, found anew if the weights have changed.

        Raises:
            StaleBoundError: the net is frozen and its weights have changed.
        """
        return self._current().network

    @property
    def difference_bounds(self) -> Tensor:
        """(m, m) float64 upper bounds on the D_ij that certificates rest on, K_ij = K D_ij; see ``margin_form``."""
        return self._current().differences

    def bound_by(self, method: str) -> NetworkBound:
        """Give the Lipschitz constant by another method, for comparison; the net keeps its own.

        Raises:
            ConfigError: there is no such method.
        """
        check_method(method)
        self._current()
        return sign(self.module, self._plan, method).network

    def absolute_norms(self) -> dict[str, float]:
        """Give the bounds on || |W| || of the linear layers before the head, by name, that executed certificates use.

        Raises:
            ConfigError: the net is in half precision.
            ArchitectureError: it is not known how a layer rounds; names it.
        """
        return self._executed_net(self._current()).absolute_norms()

    @property
    def frozen(self) -> bool:
        """Whether ``freeze`` was called: the bound is then never found anew by itself."""
        return self._frozen

    def freeze(self, method: str = DEFAULT_METHOD, effort: Literal["normal", "tight"] = "normal") -> GloRoNet:
        """Find the Lipschitz constant of the present weights by ``method`` and keep to it.

        Args:
            method: a name in ``gloro_fast.bounds.METHODS``. All give upper bounds with every rounding included, but
                ``"power"``: power iteration to convergence, as in the paper, an estimate from below.
            effort: ``"tight"`` takes as long as it needs to come within 1e-6 of every layer's norm; the same as
                ``method="tight"``.

        Returns:
            The net itself.

        Raises:
            ConfigError: there is no such method or effort, or an effort beside a method that has but one.
        """
        check_method(method)
        if effort == "tight" and method in (DEFAULT_METHOD, "tight"):
            method = "tight"
        elif effort != "normal":
            raise ConfigError(f"effort {effort!r} beside method {method!r}; use method='auto', effort='tight'")
        self._method = method
        self._signed = self._sign()
        self._frozen = True
        return self

    def unfreeze(self) -> GloRoNet:
        """Forget the frozen constant; evaluation finds it by the default method, after every change of the weights."""
        self._method = DEFAULT_METHOD
        self._frozen = False
        self._signed = None
        return self

    def find_bound(self, method: str) -> NetworkBound:
        """Bound the present weights by ``method`` for comparison; nothing is kept, nor signed with it.

        Raises:
            ConfigError: there is no such method.
        """
        check_method(method)
        plan = (
            self._plan
            if self._plan.fits(self.module)
            else make_plan(self.module, self.input_shape, margins=self._margins)
        )
        return sign(self.module, plan, method).network

    def bound_work(self) -> float:
        """Give about as many floating-point operations as the default method takes; a core does some 2e10 a second."""
        return sum(map(bound_work, self._plan.linear_maps()))

    def certify(self, x: Tensor, epsilon: float | None = None, executed: bool = False) -> Certificate:
        """Certify a batch; the net is run in evaluation mode, without autocast.

        Args:
            x: (B, *input_shape) images of the net's dtype, B >= 1.
            epsilon: l2 radius >= 0; the net's own by default.
            executed: cover the rounding of the net's own float32 or float64 forward pass as well, at the image and
                everywhere within epsilon of it: :meth:`gloro_fast.executed.ExecutedNet.radius` says how. The batch
                is then also evaluated in float64.

        Returns:
            Prediction, certified or not, and certified radius of each image. They hold for real arithmetic on
            the logits as computed, or for the program that runs if ``executed``, and as far as the method of the
            constant is a bound: see ``method``.

        Raises:
            DataError: images of another dtype or shape, an empty batch, NaN or infinite pixels.
            StaleBoundError: the net is frozen and its weights have changed.
            ConfigError: executed, with a net in half precision or settings that let a backend use other arithmetic.
            ArchitectureError: executed, with a layer whose rounding is not known; names it.
            ExecutionError: executed, and the logits are not what sums of products can give.
        """
        epsilon = self._epsilon if epsilon is None else _checked_epsilon(epsilon)
        check_images(x, self._input_shape, floating_dtype(self.module))
        with torch.no_grad():
            # Layers may write over a copy; an executed radius is that of the images as they came.
            signed, logits, prediction, real_radius, _ = self._evaluate(x.clone() if executed else x)
        radius = real_radius
        if executed:
            check_settings(self.module, x.device)
            radius = torch.minimum(real_radius, self._executed_net(signed).radius(x, logits, prediction))
        bound = signed.network
        return Certificate(
            prediction, radius > epsilon, radius, epsilon, bound.lipschitz, bound.label, logits, executed, real_radius
        )

    def forward(self, x: Tensor, labels: Tensor | None = None, criterion: Criterion | None = None) -> Tensor:
        """Give the m + 1 logits, bottom last, or with ``labels`` and ``criterion`` the loss.

        In evaluation bottom is a constant to autograd, and the class logits of an image that is not finite, or gives
        logits that are not, are -inf beside a bottom of +inf.

        Args:
            x: (B, *input_shape).
            labels: (B,) int64 in [0, m).
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
        check_labels(labels, len(x), self.num_classes)
        if self.training and type(criterion) in (CrossEntropyLoss, TradesLoss, EmmaLoss, LmtLoss):
            assert isinstance(criterion, MarginCriterion)
            return self._fused_loss(x, labels, criterion)
        logits = self._training_logits(x) if self.training else self._evaluation_logits(x)
        self._count(labels, logits.prediction, logits.certified, logits.lipschitz)
        if isinstance(criterion, EmmaLoss | LmtLoss):
            differences = self._current().differences.to(logits.output.dtype)
            margin = (logits.output[:, :-1], differences, logits.lipschitz, self._epsilon)
            return criterion.reduce(criterion.with_margin(*margin, labels)[0])
        return criterion(logits.output, labels)

    def loss(self, x: Tensor, labels: Tensor, criterion: Criterion) -> Tensor:
        """Give the loss of a batch: the same as ``net(x, labels, criterion)``."""
        result: Tensor = self(x, labels, criterion)
        return result

    def extra_repr(self) -> str:
        """Show epsilon, the input shape, the state of the bound, and which constants margins have."""
        state = f", frozen by {self._method}" if self._frozen else ""
        return f"epsilon={self._epsilon:g}, input_shape={self.input_shape}{state}, {self.margin_form}"

    def _training_logits(self, x: Tensor) -> _Logits:
        logits, lipschitz, differences = self._training_margin(x)
        with torch.autocast(x.device.type, enabled=False):
            bottom, prediction, radius = ops.margin(logits, differences, lipschitz, self._epsilon)
        output = torch.cat([logits.to(bottom.dtype), bottom[:, None]], dim=1)
        return _Logits(output, prediction, radius > self._epsilon, lipschitz)

    def _fused_loss(self, x: Tensor, labels: Tensor, criterion: MarginCriterion) -> Tensor:
        """Give what ``criterion(net(x), labels)`` gives, where it gives anything, in one pass over the class logits."""
        logits, lipschitz, differences = self._training_margin(x)
        with torch.autocast(x.device.type, enabled=False):
            losses, prediction, certified = criterion.with_margin(logits, differences, lipschitz, self._epsilon, labels)
            self._count(labels, prediction, certified, lipschitz)
            return criterion.reduce(losses)

    def _training_margin(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the class logits (B, m), the estimate of K and the head's differences (m, m), all differentiable."""
        if not (self._training_plan.fits(self.module) and self._training_plan.fits_mode()):
            self._replan_training()
        logits = self._training_plan.run(x)
        with torch.autocast(x.device.type, enabled=False):
            lipschitz = self._training_lipschitz()
            return logits, lipschitz, self._training_differences(lipschitz)

    def _training_lipschitz(self) -> Tensor:
        """Give the differentiable estimate of K and move the iterates on."""
        plan = self._training_plan
        rules = [part.rule() for part in plan.parts]
        numbers = [1.0 if isinstance(rule, Diagonal) else rule.factor for rule in rules]
        which = [index for index, rule in enumerate(rules) if isinstance(rule, LinearMap)]
        maps = [rule for rule in rules if isinstance(rule, LinearMap)]
        if maps:
            found, v_new, _ = ops.power_iteration(
                [linear.weight for linear in maps],
                self.iterates.vectors(),
                [linear.geometry for linear in maps],
                self.power_iterations,
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
            return head.differences()
        return general_difference_bounds(self.num_classes, like.device).to(like.dtype)

    def _evaluation_logits(self, x: Tensor) -> _Logits:
        if torch.compiler.is_compiling() and not self._frozen:
            outside: _Logits = self._untraced_evaluation_logits(x)
            return outside
        signed, logits, prediction, radius, bottom = self._evaluate(x)
        with torch.no_grad():
            # A NaN or +inf among the class logits would win an argmax against any bottom. An infinite pixel may
            # leave finite logits behind a ReLU; a sum tells of it in one pass.
            finite = logits.isfinite().all(dim=1) & x.flatten(1).sum(dim=1).isfinite()
            bottom = torch.where(finite, bottom, torch.inf)
            radius = torch.where(finite, radius, 0.0)
        output = torch.cat([torch.where(finite[:, None], logits, -torch.inf), bottom[:, None]], dim=1)
        return _Logits(output, prediction, radius > self._epsilon, logits.new_tensor(signed.network.lipschitz))

    @_disable_dynamo
    def _untraced_evaluation_logits(self, x: Tensor) -> _Logits:
        """Look at the weights, and bound them anew if they changed: nothing that a graph could hold."""
        return self._evaluation_logits(x)

    def _evaluate(self, x: Tensor) -> tuple[SignedBound, Tensor, Tensor, Tensor, Tensor]:
        """Give the bound in force, the class logits (at least float32), predictions, radii and bottom logits."""
        signed = self._current()
        with evaluation_mode(self.module), torch.autocast(x.device.type, enabled=False):
            logits = self._plan.run(x)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        with torch.no_grad():
            prediction, radius, bottom = certify_logits(
                logits, signed.differences, signed.network.lipschitz, self._epsilon
            )
            if torch.compiler.is_compiling():
                unchanged = weights_are_signed(self.module, self._plan, signed)
                radius, bottom = torch.where(unchanged, radius, 0.0), torch.where(unchanged, bottom, torch.inf)
        return signed, logits, prediction, radius, bottom

    def _current(self) -> SignedBound:
        """Give the bound of the present weights: the one at hand if they are unchanged, else a new one."""
        signed = self._signed
        if signed is None:
            signed = self._signed = self._sign()
            return signed
        if torch.compiler.is_compiling():
            # In a graph the weights are compared by the graph itself.
            return signed
        if signed.snapshot is not None and signed.snapshot.still_holds(self.module):
            return signed
        now = present_fingerprint(self.module, self._plan) if self._plan.fits(self.module) else None
        if signed.fingerprint == now:
            if signed.snapshot is not None:
                signed = self._signed = look_again(signed, self.module, self._plan)
            return signed
        if self._frozen:
            change = signed.fingerprint.difference(now) if now else "a layer was replaced"
            raise StaleBoundError(f"the net was frozen and {change}; call freeze() again or unfreeze()")
        signed = self._signed = self._sign()
        return signed

    def _executed_net(self, signed: SignedBound) -> ExecutedNet:
        """Give the bounds on rounding that belong to ``signed``."""
        if self._executed is None or self._executed.bound is not signed:
            self._executed = ExecutedNet.of(self.module, self._plan, signed)
        return self._executed

    def _sign(self) -> SignedBound:
        self._replan()
        return sign(self.module, self._plan, self._method)

    @_disable_dynamo
    def _replan(self) -> None:
        """Look at the module anew: layers may have been replaced."""
        self._plan = make_plan(self.module, self.input_shape, margins=self._margins)

    @_disable_dynamo
    def _replan_training(self) -> None:
        """Look at the module anew as it is in training: layers may have been replaced, or the mode has changed."""
        self._training_plan = make_plan(self.module, self.input_shape, True, self._margins)
        self.iterates.fit(self._training_plan.linear_maps())

    def _count(self, labels: Tensor, prediction: Tensor, certified: Tensor, lipschitz: Tensor) -> None:
        correct = prediction == labels
        self.batch_statistics = BatchStatistics(correct.sum(), (correct & certified).sum(), lipschitz.detach())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GloRoNet:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self._signed is not None:
            self._signed = self._signed.to(self._plan.device)
        if self._plan.unregistered() or self._training_plan.unregistered():
            # Tensors that a forward makes are where the module was traced.
            self._replan()
            self._replan_training()
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "batch_statistics": None, "_executed": None}


def _checked_epsilon(epsilon: float) -> float:
    try:
        value = float(epsilon)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ConfigError(f"epsilon is {epsilon!r}; the l2 radius must be a finite number >= 0")
    return value


def _checked_shape(input_shape: tuple[int, ...]) -> tuple[int, ...]:
    try:
        shape = tuple(int(size) for size in input_shape)
    except (TypeError, ValueError):
        shape = ()
    if not shape or min(shape) < 1:
        raise ConfigError(f"input_shape is {input_shape!r}; give the shape of one input, such as (1, 28, 28)")
    return shape
