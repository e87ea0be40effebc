"""A classifier that knows an upper bound on its Lipschitz constant, for the weights that it has now: certificates."""

from __future__ import annotations

import dataclasses
import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

# torch.compiler.disable for a method would import the whole compiler with this package: seconds.
from torch._compile import _disable_dynamo

from gloro_fast.bounds import DEFAULT_METHOD, NetworkBound, bound_work, check_method
from gloro_fast.errors import ConfigError, DataError, FrozenError, StaleBoundError
from gloro_fast.graph.identity import difference
from gloro_fast.graph.node import Layer
from gloro_fast.graph.plan import Margins, Plan, evaluation_mode, floating_dtype, make_plan
from gloro_fast.graph.reads import Reads
from gloro_fast.net.certificate import Certificate
from gloro_fast.net.graph_watch import look, watch
from gloro_fast.net.signed_bound import (
    SignedBound,
    exported_difference,
    exported_weights_are_signed,
    look_again,
    present_fingerprint,
    sign,
    weights_are_signed,
)
from gloro_fast.net.snapshot import Snapshot
from gloro_fast.ops import capturing
from gloro_fast.ops.certify import certify_logits
from gloro_fast.ops.exporting import is_exporting
from gloro_fast.ops.image_codes import NOT_FINITE, OUTSIDE, image_codes
from gloro_fast.ops.relaxed_margin_op import check_sets, ranked_classes, relaxed_radii
from gloro_fast.ops.scalar import Scalar
from gloro_fast.ops.verdict import CHANGED, verdict
from gloro_fast.pixels import check_floats, check_images
from gloro_fast.rounding_error import ExecutedNet, Reach, sums_of_products

# The mode in which make_fx records what is computed.
_PROXY = torch._C._TorchDispatchModeKey.PROXY
# What captured graphs compare weights with, and sign by, wherever the nets have gone: memory that others got would be
# taken for it.
_captured: list[SignedBound] = []


class Evaluation(NamedTuple):
    """What comes of a batch of B.

    Attributes:
        bound: the bound in force.
        logits: (B, m), at least float32.
        prediction: (B,) int64.
        radius: (B,) float64.
        bottom: (B,) of the logits' dtype.
        certified: (B,) bool, ``radius > epsilon``.
        codes: (B,) uint8 as :class:`gloro_fast.ops.verdict.Verdict` has them; None where nothing looked for them.
    """

    bound: SignedBound
    logits: Tensor
    prediction: Tensor
    radius: Tensor
    bottom: Tensor
    certified: Tensor
    codes: Tensor | None = None


class BoundedNet(nn.Module):
    """The part of a GloRo net that evaluates and certifies; see :class:`gloro_fast.net.gloro_net.GloRoNet`.

    Args:
        module: the classifier f.
        epsilon: l2 radius >= 0 to certify, in units of the input.
        input_shape: shape of one input.
        margins: ``"rows"`` or ``"whole"``.

    Raises:
        ConfigError, UnknownLayerError, ArchitectureError: as for a GloRo net.
    """

    def __init__(self, module: nn.Module, epsilon: float, input_shape: tuple[int, ...], margins: Margins) -> None:
        super().__init__()
        if isinstance(module, nn.Module) and any(isinstance(child, BoundedNet) for child in module.modules()):
            raise ConfigError("the module is or holds a GloRo net already; pass its net.module")
        if margins not in ("rows", "whole"):
            raise ConfigError(f"margins is {margins!r}; choose 'rows' or 'whole'")
        self.module = module
        self._margins: Margins = margins
        self._input_shape = _checked_shape(input_shape)
        self._epsilon = Scalar(_checked_epsilon(epsilon))
        self._plan = make_plan(module, self.input_shape, margins=margins)
        transfer = self._plan.nodes[self._plan.output].transfer
        if isinstance(transfer, Layer) and isinstance(transfer.module, nn.Softmax):
            warnings.warn(
                "the module ends in a Softmax; logits are expected, so certified radii will be small: remove it",
                stacklevel=3,
            )
        self._method = DEFAULT_METHOD
        self._frozen = False
        self._signed: SignedBound | None = None
        self._executed: tuple[SignedBound, ExecutedNet] | None = None
        self._key = watch(self)

    @property
    def epsilon(self) -> float:
        """The l2 radius that the bottom logit stands for. Setting it on a frozen net raises ``FrozenError``.

        Captured graphs of training steps follow it.
        """
        return self._epsilon.value

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        checked = _checked_epsilon(value)
        if self._frozen and checked != self.epsilon:
            raise FrozenError(
                f"epsilon is frozen at {self.epsilon:g}; call unfreeze() before setting it to {checked:g}, or pass "
                "epsilon to certify()"
            )
        self._epsilon.value = checked

    def epsilon_on(self, device: torch.device) -> Tensor:
        """Return epsilon as kernels read it: a 0-dim float64 tensor on ``device``."""
        return self._epsilon.read(device)

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

    def absolute_norms(self) -> dict[str, float]:
        """Return the bounds on || |W| || of the linear layers before the head, by name, that executed certificates use.

        Raises:
            ConfigError: the net is in half precision.
            ArchitectureError: it is not known how a layer rounds; names it.
        """
        return self._executed_net(self._current()).absolute_norms()

    def rounding_around(self, centres: Tensor) -> Reach:
        """Bound how far the logits of an image may be off the real ones by its distance from some points.

        Args:
            centres: (C, *input_shape) float64.

        Raises:
            ConfigError, ArchitectureError: as for :meth:`absolute_norms`.
        """
        return self._executed_net(self._current()).around(centres)

    def scaled_layers(self) -> list[str]:
        """Name what multiplies by numbers, such as BatchNorm: compilers may make one map of it and the layer before.

        Raises:
            ConfigError, ArchitectureError: as for :meth:`absolute_norms`.
        """
        places = self._executed_net(self._current()).scaled_places()
        return [self._plan.nodes[place].name for place in places]

    def class_logits(self, x: Tensor) -> Tensor:
        """Return (B, m) logits of the classes of a batch (B, *input_shape), as evaluation computes them, unsigned."""
        return self._class_logits(x, executed=False)

    @property
    def frozen(self) -> bool:
        """Whether ``freeze`` was called: the bound is then never found anew by itself."""
        return self._frozen

    def freeze(self, method: str = DEFAULT_METHOD, effort: Literal["normal", "tight"] = "normal") -> Self:
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

    def unfreeze(self) -> Self:
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
        return sign(self.module, self._fitting_plan(), method).network

    def bound_work(self) -> float:
        """Return about how many floating-point operations the default method takes; a core does 2e10 a second."""
        return sum(map(bound_work, self._plan.linear_maps()))

    def certify(self, x: Tensor, epsilon: float | None = None, executed: bool = False) -> Certificate:
        """Certify a batch; the net is run in evaluation mode, without autocast, a float32 net on a GPU without TF32.

        Args:
            x: (B, *input_shape) images of the net's dtype, B >= 1.
            epsilon: l2 radius >= 0; the net's own by default.
            executed: cover the rounding of the net's own float32 or float64 forward pass as well, at the image and
                everywhere within epsilon of it: :meth:`gloro_fast.rounding_error.ExecutedNet.radii` says how. The
                batch is then also evaluated in float64. Covered is the pass that ``executed=True`` makes; it takes sums
                of products in float64 where the usual pass may not add products, as always on a GPU.

        Returns:
            Prediction, certified or not, and certified radius of each image. They hold for real arithmetic on
            the logits as computed, or for the program that runs if ``executed``, and as far as the method of the
            constant is a bound: see ``method``.

        Raises:
            DataError: images of another dtype or shape, an empty batch, NaN or infinite pixels.
            StaleBoundError: the net is frozen and its weights have changed.
            ConfigError: executed, with a net in half precision, or on a device or with settings of which no arithmetic
                is known.
            ArchitectureError: executed, with a layer whose rounding is not known; or, on a GPU, a layer that may use
                TF32; names it.
            ExecutionError: executed, and the logits are not what sums of products can give.
        """
        return self._certify(x, epsilon, executed)[0]

    def certify_sets(
        self, x: Tensor, most: int, epsilon: float | None = None, executed: bool = False
    ) -> tuple[Certificate, Tensor, Tensor, Tensor]:
        """Certify a batch, and how far its likeliest classes stay the likeliest as a set: relaxed top-k robustness.

        Args:
            x: as for :meth:`certify`.
            most: the largest set, less than the number of classes.
            epsilon: as for :meth:`certify`.
            executed: likewise; the sets are then those of the program that runs, here and everywhere in the ball.

        Returns:
            certificate: the ordinary one.
            classes: (B, most) int64, the likeliest in their order.
            radii: (B, most) float64, at index k - 1 that within which the first k stay the k likeliest, in any order;
                for k = 1 the ordinary radius, bit for bit.
            real_radii: (B, most), those for real arithmetic on the logits; ``radii`` itself if not executed.

        Raises:
            ConfigError: the sets are as large as the classes are many.
            GloroFastError: as :meth:`certify`.
        """
        check_sets(most, None, self.num_classes)
        certificate, bound, rounding = self._certify(x, epsilon, executed, most)
        classes, real = relaxed_radii(certificate.logits, bound.differences, certificate.lipschitz, most)
        return certificate, classes, real if rounding is None else torch.minimum(real, rounding), real

    def _certify(
        self, x: Tensor, epsilon: float | None, executed: bool, most: int = 1
    ) -> tuple[Certificate, SignedBound, Tensor | None]:
        """Certify a batch; give with that the bound it goes by, and if executed the radii of the first k, (B, most)."""
        epsilon = self.epsilon if epsilon is None else _checked_epsilon(epsilon)
        look = not (isinstance(x, Tensor) and (_looks_last(x) or capturing.is_capturing(x.device)))
        check_images(x, self._input_shape, floating_dtype(self.module), pixels=look)
        if executed and capturing.is_capturing(x.device):
            raise ConfigError("a CUDA graph is captured, which cannot certify with executed=True; call it outside")
        radii = None
        with torch.no_grad():
            if executed:
                found, radii = self._evaluate_executed(x, epsilon, most)
                radius = torch.minimum(found.radius, radii[:, 0])
                certified = radius > epsilon
            else:
                found = self._evaluate(x, epsilon, refuse=True)
                radius, certified = found.radius, found.certified
        bound = found.bound.network
        certificate = Certificate(
            found.prediction, certified, radius, epsilon, bound.lipschitz, bound.label, found.logits, executed,
            found.radius,
        )  # fmt: skip
        return certificate, found.bound, radii

    def extra_repr(self) -> str:
        """Show epsilon, the input shape, the state of the bound, and which constants margins have."""
        state = f", frozen by {self._method}" if self._frozen else ""
        return f"epsilon={self.epsilon:g}, input_shape={self.input_shape}{state}, {self.margin_form}"

    def check_structure(self) -> None:
        """Check whether the net is what was signed, but for the bits of its tensors unless that is the shorter way.

        Raises:
            StaleBoundError: the net is frozen and has changed.
            UnknownLayerError, ArchitectureError: a layer has become unknown, or something may change its values.
        """
        snapshot = self._signed.snapshot if self._signed else None
        if snapshot is None or not snapshot.structure_holds(self.module):
            self._current()

    @_disable_dynamo
    def _evaluate_executed(self, x: Tensor, epsilon: float, most: int) -> tuple[Evaluation, Tensor]:
        """Evaluate and sign a batch; give that with the radii of the first k for what is executed, (B, most)."""
        if _looks_last(x):
            self.check_structure()
        else:
            self._current()
        with sums_of_products(self._plan, x.device):
            # Layers may write over a copy; an executed radius is that of the images as they came.
            found = self._evaluate(x.clone(), epsilon, refuse=True, executed=True)
            classes = ranked_classes(found.logits)[:, :most]
            return found, self._executed_net(found.bound).radii(x, found.logits, classes)

    def _evaluate(self, x: Tensor, epsilon: float, refuse: bool = False, executed: bool = False) -> Evaluation:
        """Evaluate and sign a batch.

        Args:
            x: (B, *input_shape).
            epsilon: l2 radius.
            refuse: images that are not finite, and warn of those outside [0, 1], where nobody has looked yet.
            executed: run the layers in the arithmetic that the caller has taken.
        """
        if not torch.compiler.is_compiling():
            if capturing.is_capturing(x.device):
                return self._evaluate_in_capture(x, epsilon)
            if _looks_last(x):
                return self._evaluate_and_look(x, epsilon, refuse, executed)
        signed, unchanged = self._in_force(x)
        logits = self._class_logits(x, executed)
        with torch.no_grad():
            prediction, radius, bottom = certify_logits(logits, signed.differences, signed.network.lipschitz, epsilon)
            if unchanged is not None:
                radius, bottom = torch.where(unchanged, radius, 0.0), torch.where(unchanged, bottom, torch.inf)
        return Evaluation(signed, logits, prediction, radius, bottom, radius > epsilon)

    def _evaluate_and_look(self, x: Tensor, epsilon: float, refuse: bool, executed: bool) -> Evaluation:
        """Do so on a device that Python waits for, and look last at what the device says of weights and images.

        What was computed by weights that are not those of the bound is thrown away.
        """
        _refuse_recorders()
        images, signed = image_codes(x), self._signed
        snapshot = signed.snapshot if signed is not None else None
        if (
            signed is None
            or snapshot is None
            or not _is_at_hand(signed, x)
            or not snapshot.structure_holds(self.module)
        ):
            signed, snapshot = self._current(), None
        found = self._sign_batch(x, epsilon, signed, images, snapshot, executed)
        assert found.codes is not None
        codes = found.codes.cpu().numpy()  # the one wait
        if refuse and (codes & (NOT_FINITE | OUTSIDE)).any():
            check_floats(x, "images")
            if (codes & NOT_FINITE).any():
                raise DataError("images: pixels were NaN or infinite before a layer wrote over them; repair them")
        if codes[0] & CHANGED:
            found = self._sign_batch(x, epsilon, self._current(), images, None, executed)
        return found

    def _evaluate_in_capture(self, x: Tensor, epsilon: float) -> Evaluation:
        """Do so in a CUDA graph, which compares the weights at every replay: where they differ it certifies nothing."""
        _refuse_recorders()
        signed = self._signed
        if not self._frozen or signed is None:
            raise ConfigError("a CUDA graph is captured, which cannot find a bound anew; call freeze() before")
        snapshot, unchanged = signed.snapshot, None
        if snapshot is None or not _is_at_hand(signed, x) or not snapshot.structure_holds(self.module):
            change = exported_difference(self.module, self._plan, signed)
            if change:
                raise StaleBoundError(f"the net was frozen and {change}; call freeze() again before capturing")
            snapshot, unchanged = None, exported_weights_are_signed(self.module, self._plan, signed)
        if not any(kept is signed for kept in _captured):
            _captured.append(signed)
        found = self._sign_batch(x, epsilon, signed, image_codes(x), snapshot, False)
        if unchanged is not None:
            found = found._replace(
                radius=torch.where(unchanged, found.radius, 0.0),
                bottom=torch.where(unchanged, found.bottom, torch.inf),
                certified=unchanged & found.certified,
            )
        return found

    def _sign_batch(
        self,
        x: Tensor,
        epsilon: float,
        signed: SignedBound,
        images: Tensor,
        snapshot: Snapshot | None,
        executed: bool,
    ) -> Evaluation:
        """Evaluate a batch, and sign it unless the weights are not those of ``snapshot``, as the device sees it."""
        with torch.no_grad():
            shares = snapshot.shares() if snapshot is not None else None
        logits = self._class_logits(x, executed)
        hashes = snapshot.hashes if snapshot is not None and shares is not None else None
        return Evaluation(
            signed,
            logits,
            *verdict(logits, signed.differences, signed.network.lipschitz, epsilon, images, shares, hashes),
        )

    def _class_logits(self, x: Tensor, executed: bool) -> Tensor:
        modes = nullcontext() if self._plan.evaluates() else evaluation_mode(self.module)
        with modes, _no_autocast(x.device):
            logits = self._plan.run(x) if executed else self._plan.evaluate(x)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _in_force(self, x: Tensor) -> tuple[SignedBound, Tensor | None]:
        """Return the bound in force, and in a graph whether it is: a scalar bool tensor, which the graph computes.

        Both from here, since a compiler may make a graph of this much alone, and leave its callers as they are.
        """
        signed = self._signed
        if not torch.compiler.is_compiling():
            return self._current(), None
        if not is_exporting():
            if not self._frozen or signed is None:
                return self._current(), None
            return signed, weights_are_signed(self.module, signed) & look(x, self._key)
        if not self._frozen or signed is None:
            raise ConfigError("the net is not frozen, so an exported graph has no bound to keep; call freeze()")
        self._check_exported()
        return signed, exported_weights_are_signed(self.module, self._plan, signed)

    def _check_exported(self) -> None:
        """Refuse to export a net whose structure, settings or attributes are not those that were signed."""
        assert self._signed is not None
        _refuse_onnx()
        change = exported_difference(self.module, self._plan, self._signed)
        if change:
            raise StaleBoundError(f"the net was frozen and {change}; call freeze() again before exporting")

    # What torch.compiler.assume_constant_result does, without importing the whole compiler: called, not traced.
    _check_exported._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _current(self) -> SignedBound:
        """Return the bound of the present weights: the one at hand if they are unchanged, else a new one."""
        return self._untraced_current() if torch.compiler.is_compiling() else self._found()

    @_disable_dynamo
    def _untraced_current(self) -> SignedBound:
        """Do so beside a graph, which cannot hold it."""
        return self._found()

    def _found(self) -> SignedBound:
        if capturing.is_capturing(self._plan.device):
            raise ConfigError("a CUDA graph is captured, where Python cannot look at weights; ask for the bound before")
        _refuse_recorders()
        signed = self._signed
        if signed is None:
            signed = self._signed = self._sign()
            return signed
        if signed.snapshot is not None and signed.snapshot.still_holds(self.module):
            return signed
        change = self._follow()
        if not change:
            now = present_fingerprint(self.module, self._plan)
            if signed.fingerprint == now:
                signed = self._signed = look_again(signed, self.module, self._plan)
                return signed
            change = signed.fingerprint.difference(now)
        if self._frozen:
            raise StaleBoundError(f"the net was frozen and {change}; call freeze() again or unfreeze()")
        signed = self._signed = self._sign()
        return signed

    def _follow(self) -> str:
        """Capture the module anew if it may compute something else; say where its graph is another one, if it is.

        Such as a counter, what has changed may make the same graph.
        """
        plan = self._fitting_plan()
        if plan is self._plan:
            return ""
        place = difference(self._plan.nodes, plan.nodes)
        if place:
            return f"its forward makes another graph since, from {place} on"
        self._plan = plan
        return ""

    def _executed_net(self, signed: SignedBound) -> ExecutedNet:
        """Return the bounds on rounding that belong to ``signed``."""
        if self._executed is None or self._executed[0] is not signed:
            executed = ExecutedNet.of(self.module, self._plan, signed.network, signed.differences)
            self._executed = signed, executed
        return self._executed[1]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        for name in ("_plan", "_training_plan"):
            plan = getattr(self, name, None)
            if plan is not None and plan.reads.copied:
                setattr(self, name, dataclasses.replace(plan, reads=Reads.of(plan.module)))
        # Those in the state are the original's.
        self._key, self._epsilon = watch(self), Scalar(self.epsilon)

    @_disable_dynamo
    def _sign(self) -> SignedBound:
        self._plan = self._fitting_plan()
        return sign(self.module, self._plan, self._method)

    def _fitting_plan(self) -> Plan:
        """Return the graph, captured anew if the module may compute something else than it did."""
        fits = self._plan.fits(self.module)
        return self._plan if fits else make_plan(self.module, self.input_shape, margins=self._margins)


def _refuse_recorders() -> None:
    """Refuse to sign for what records operations without Python's look at the weights."""
    if torch._C._is_tracing():
        _refuse_onnx()
    if torch._C._is_tracing() or torch._C._get_dispatch_mode(_PROXY) is not None:
        raise ConfigError(
            "torch.jit.trace and make_fx would keep the Lipschitz constant for whatever weights the result gets; "
            "freeze the net and use torch.export.export"
        )


def _refuse_onnx() -> None:
    """Refuse to make an ONNX file, which no operation lets look at the bits of its own weights."""
    if torch.onnx.is_in_onnx_export():
        raise ConfigError(
            "an ONNX file cannot compare its weights with those that were bounded, so that it may certify nothing; "
            "export net.module, or use torch.export.export"
        )


def _looks_last(x: Tensor) -> bool:
    """Return whether to ask what a device says of a batch after all is computed: before, Python would have to wait."""
    return x.is_cuda and len(x) > 0 and not torch._C._are_functorch_transforms_active()


def _is_at_hand(signed: SignedBound, x: Tensor) -> bool:
    """Return whether the bound, and the hashes it holds for, are where the images are."""
    snapshot = signed.snapshot
    return signed.differences.device == x.device and (snapshot is not None and snapshot.hashes.device == x.device)


def _no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Switch autocast off; an exported graph cannot be loaded with a switch in it, and follows whoever runs it."""
    # Where it is off already Python needs 20 microseconds to switch it twice, its caches full of images.
    if is_exporting() or not (torch.compiler.is_compiling() or torch.is_autocast_enabled(device.type)):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)


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
