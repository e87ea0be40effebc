"""Small nets and batches for the tests of GloRoNet."""

import math

import torch

from gloro_fast import GloRoNet, architectures

SHAPE = (1, 8, 8)


def classifier(classes=5):
    return architectures.build("2C2F", input_shape=SHAPE, num_classes=classes)


def glorot_net(epsilon=0.1):
    return GloRoNet(classifier(), epsilon, SHAPE)


def batch(rows=32):
    return torch.rand(rows, *SHAPE), torch.randint(5, (rows,))


def exact_lipschitz(net):
    """The product of the exact spectral norms of all layers before the head, from unrolled matrices."""
    product = 1.0
    for linear in net._plan.linear_maps():
        size = math.prod(linear.geometry.input_shape)
        basis = torch.eye(size, dtype=torch.float64).reshape(size, *linear.geometry.input_shape)
        rows = [linear.geometry.apply(linear.weight.detach().double(), e).flatten() for e in basis]
        product *= torch.linalg.matrix_norm(torch.stack(rows), 2).item()
    return product
