"""What may be known of a layer beside its Lipschitz constant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor


class Affine(NamedTuple):
    """(x - shift) gain / sqrt(square) + bias, each (C,) or (1,), and None for 1 and 0."""

    shift: Tensor
    square: Tensor
    gain: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class Traits:
    """What a graph may do with a layer of which it is so; what is not said is taken not to hold.

    Attributes:
        is_its_map: padding with zeros, or none, the layer is the very linear map that its rule gives, and a bias:
            branches and numbers beside it may be merged into it.
        without_bias: computes the layer without the bias that it adds along dimension 1 of its output (``nn.Linear``:
            the last), into new memory; the layer behind adds it.
        spares_output: the output is new memory that the layer's own gradient does not read, so that the next layer may
            write over it.
        scales: in evaluation it multiplies all elements by one number.
        multiplies: whether it multiplies matrices or convolves, then by nothing but functions that ``ops.strict`` keeps
            from TF32; None where that is not known.
        rounding: how it computes in evaluation: ``"sums"`` of at most as many products as its rule says with its
            ``weight``, and ``bias`` or None; ``"averages"``; a ``"selection"``, each output one of the inputs, or 0; a
            ``"product"`` with one number; or a function that gives it as an affine map a channel. None: not known.
    """

    is_its_map: bool = False
    without_bias: Callable[[Any, Tensor], Tensor] | None = None
    spares_output: bool = False
    scales: bool = False
    multiplies: bool | None = None
    rounding: Literal["sums", "averages", "selection", "product"] | Callable[[Any], Affine] | None = None


ELEMENTWISE = Traits(multiplies=False)
"""Of an activation whose rounding is not bounded."""

SELECTION = Traits(multiplies=False, rounding="selection")
"""The largest or smallest of some inputs, copies in other places, and nothing in evaluation."""

AVERAGES = Traits(multiplies=False, rounding="averages")
"""Of average pooling."""
