"""Spectral norms beyond float64: a lower bound by exact integers, of which float64 gives only the vector."""

import math
from fractions import Fraction

import numpy as np
import torch


def unrolled(layer):
    """The layer as a float64 matrix: its values on every unit vector, which are its weights as they are.

    Where a circular padding lets two taps meet on one input their sum must be exact: use float32 weights of one scale.
    """
    weight, geometry = layer.weight.double(), layer.geometry
    size = math.prod(geometry.input_shape)
    basis = torch.eye(size, dtype=torch.float64).reshape(size, *geometry.input_shape)
    return torch.vmap(lambda e: geometry.apply(weight, e).flatten(), out_dims=1)(basis)


def integers(array):
    """Float64 numbers as integers times one power of two: (integers, exponent)."""
    mantissa, exponent = np.frexp(array)
    used = array != 0
    least = int(exponent[used].min()) - 53 if used.any() else 0
    shifts = np.where(used, exponent.astype(np.int64) - 53 - least, 0)
    whole = (mantissa * 2.0**53).astype(np.int64).astype(object)
    return whole * np.array([1 << int(shift) for shift in shifts.ravel()], dtype=object).reshape(array.shape), least


def squared_norm_from_below(matrix):
    """A rational <= ||matrix||^2, exactly, and within about 1e-28 of it: ||M v||^2 / ||v||^2, for v rounded.

    The quotient's error is that of v squared, where float64 finds v to 1e-14.
    """
    array = matrix.numpy()
    if not array.any():
        return Fraction(0)
    # For v only; what underflows here changes v a little.
    scaled = np.ldexp(array, -int(np.frexp(np.abs(array).max())[1]))
    v = torch.linalg.svd(torch.from_numpy(scaled), full_matrices=False).Vh[0].numpy()
    rows, columns = np.nonzero(array)
    whole, exponent = integers(array[rows, columns])
    vector, _ = integers(v)
    image = np.zeros(len(array), dtype=object)
    np.add.at(image, rows, whole * vector[columns])
    quotient = Fraction(int((image * image).sum()), int((vector * vector).sum()))
    return quotient * Fraction(2) ** (2 * exponent)


def contains(bound, matrix):
    """Return whether ``bound`` is not below the norm, without any tolerance."""
    return bound == math.inf or Fraction(bound) ** 2 >= squared_norm_from_below(matrix)
