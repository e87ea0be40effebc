"""Which kinds of layers it is known of how they round, and what is to be found out about each of them."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gloro_fast.bounds.absolute import absolute_norm
from gloro_fast.errors import ArchitectureError
from gloro_fast.nn.residual import ResidualConv2d
from gloro_fast.rounding import product_up
from gloro_fast.rounding_error.arithmetic import Arithmetic, norms
from gloro_fast.rounding_error.scaling import Scaling
from gloro_fast.rounding_error.state import Step
from gloro_fast.rounding_error.steps import Addition, Selection, Sums
from gloro_fast.rules.registry import Knowledge, LinearMap, known_type, traits_of


def make_step(
    name: str,
    module: nn.Module,
    input_shape: tuple[int, ...],
    rule: Knowledge,
    constant: float,
    arithmetic: Arithmetic,
) -> Step:
    """Return what bounds the rounding of one layer.

    Args:
        name: its name in the module.
        module: the layer, in evaluation mode.
        input_shape: of one input.
        rule: what is known of it with its present weights.
        constant: its Lipschitz constant, as bounded.
        arithmetic: the program's.

    Raises:
        ArchitectureError: it is not known how its kind rounds.
    """
    rounding = traits_of(module).rounding
    if rounding == "sums" and isinstance(rule, LinearMap):
        return _sums(name, _float64_copy(name, module, rule), input_shape, rule, constant, arithmetic)
    if callable(rounding):
        return scaling(*rounding(module), input_shape, constant, arithmetic)
    # Copies stay in evaluation mode when the net is trained on.
    copied = copy.deepcopy(module).eval()
    if rounding == "averages":
        return _averages(name, copied, input_shape, constant, arithmetic)
    if rounding == "selection":
        return Selection(copied, (constant,), arithmetic)
    if rounding == "product":
        return Addition(copied, (constant,), 0.0, 7, math.prod(input_shape), arithmetic)
    kind = known_type(module).__name__
    raise ArchitectureError(
        f"{name or 'the module'} is a {kind}, whose rounding is not bounded; certify without executed"
    )


def scaling(
    shift: Tensor,
    square: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    input_shape: tuple[int, ...],
    constant: float,
    arithmetic: Arithmetic,
) -> Scaling:
    """Return what bounds (x - shift) gain / sqrt(square) + bias, each a number a channel, or one for all.

    Args:
        shift: (C,) or (1,).
        square: likewise.
        gain: likewise; None for 1.
        bias: likewise; None for 0.
        input_shape: (C, ...), of one input.
        constant: its Lipschitz constant, as bounded.
        arithmetic: the program's.
    """
    gain = torch.ones_like(square) if gain is None else gain
    bias = torch.zeros_like(square) if bias is None else bias
    shape = (-1, *[1] * (len(input_shape) - 1))
    # Copies, which do not follow when the net is trained on.
    m, d, g, b = (tensor.detach().double().clone().reshape(shape) for tensor in (shift, square, gain, bias))
    return Scaling(m, d, g, b, constant, arithmetic)


def _sums(
    name: str,
    layer: nn.Module,
    input_shape: tuple[int, ...],
    rule: LinearMap,
    constant: float,
    arithmetic: Arithmetic,
) -> Sums:
    outputs = _outputs(layer, input_shape, rule.weight.device)
    norm = 0.0
    if isinstance(layer.bias, Tensor):
        norm = float(norms(layer.bias.expand(outputs // len(layer.bias), -1)[None]))
    inputs = math.prod(input_shape)
    absolute = product_up([absolute_norm(rule), rule.factor])
    return Sums(name, layer, constant, absolute, number_of_terms(rule), outputs, inputs, norm, arithmetic)


def _averages(
    name: str, module: nn.Module, input_shape: tuple[int, ...], constant: float, arithmetic: Arithmetic
) -> Sums:
    """Take averages for sums: their matrix has no negative entry, so that its norm is that of the absolute values.

    A sum of n numbers is divided by their number, or multiplied by its rounded reciprocal: two more roundings than of
    n - 1 additions, which is what n + 1 products have room for.
    """
    outputs, inputs = _outputs(module, input_shape, torch.device("cpu")), math.prod(input_shape)
    return Sums(name, module, constant, constant, _window(module, input_shape), outputs, inputs, 0.0, arithmetic)


def _window(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Return at least as many numbers as are averaged for one output."""
    kernel = getattr(module, "kernel_size", None)
    if kernel is None:
        # Adaptive: no window is larger than the image.
        return math.prod(input_shape)
    dimensions = {nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3}[type(module)]
    return int(math.prod(kernel) if isinstance(kernel, tuple) else kernel**dimensions)


def _outputs(layer: nn.Module, input_shape: tuple[int, ...], device: torch.device) -> int:
    return int(layer(torch.zeros(1, *input_shape, dtype=torch.float64, device=device)).numel())


def number_of_terms(rule: LinearMap) -> int:
    """Return the largest number of products that one output of a linear layer adds."""
    ones, shape = torch.ones_like(rule.weight, dtype=torch.float64), rule.geometry.input_shape
    counts = rule.geometry.apply(ones, ones.new_ones(shape))
    if rule.transposed:
        counts = rule.geometry.adjoint(ones, torch.ones_like(counts))
    return round(float(counts.max()))


def _float64_copy(name: str, module: nn.Module, rule: LinearMap) -> nn.Module:
    """Return a copy of a linear layer that computes in float64 with the very weight that its rule names."""
    copied = copy.deepcopy(module)
    if parametrize.is_parametrized(module):
        # remove_parametrizations would take the weight from the class, which copy and original share.
        copied.__class__ = parametrize.type_before_parametrizations(module)
        del copied.parametrizations
        for name in module.parametrizations:  # type: ignore[union-attr]
            setattr(copied, name, nn.Parameter(getattr(module, name).detach().clone()))
    if isinstance(copied, ResidualConv2d):
        # The sums of the merged kernel are what is rounded.
        copied.weight = nn.Parameter(rule.weight.detach().clone())
        copied.identity = torch.zeros_like(copied.identity)
    if not (isinstance(copied.weight, Tensor) and torch.equal(copied.weight, rule.weight)):
        raise ArchitectureError(
            f"{name or 'the module'} has another weight than its rule, so that its rounding is not bounded; certify "
            "without executed"
        )
    return copied.double().eval().requires_grad_(False)
