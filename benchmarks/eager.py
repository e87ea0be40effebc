"""GloRo training written with PyTorch's own operations, as one would without this package."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.networks import LAMBDA, Network
from benchmarks.stock import Settings, adam, build
from gloro_fast.ops import Geometry


class PairSort(nn.Module):
    """MinMax: pairs viewed, ``where``, ``stack``."""

    def forward(self, x: Tensor) -> Tensor:
        """Sort adjacent channel pairs of ``x`` (B, C, ...)."""
        a, b = x.unflatten(1, (-1, 2)).unbind(2)  # type: ignore[no-untyped-call]
        swap = a > b
        return torch.stack((torch.where(swap, b, a), torch.where(swap, a, b)), dim=2).flatten(1, 2)


def forward(geometry: Geometry, weight: Tensor, x: Tensor) -> Tensor:
    """Apply a dense layer or a convolution with symmetric padding to one input (1, ...)."""
    if geometry.is_dense:
        return F.linear(x, weight)
    padding = [before for before, _ in geometry.padding]
    return F.conv2d(x, weight, None, geometry.stride, padding, geometry.dilation, geometry.groups)


def transpose(geometry: Geometry, weight: Tensor, y: Tensor) -> Tensor:
    """Apply the transpose."""
    if geometry.is_dense:
        return F.linear(y, weight.T)
    padding = [before for before, _ in geometry.padding]
    # Rows and columns at the end that no kernel reaches.
    rest = [
        geometry.input_shape[1 + axis]
        - ((y.shape[2 + axis] - 1) * geometry.stride[axis] - 2 * padding[axis])
        - ((weight.shape[2 + axis] - 1) * geometry.dilation[axis] + 1)
        for axis in range(2)
    ]
    return F.conv_transpose2d(y, weight, None, geometry.stride, padding, rest, geometry.groups, geometry.dilation)


def spectral_norms(
    weights: Sequence[Tensor], iterates: Sequence[Tensor], geometries: Sequence[Geometry], iterations: int
) -> Tensor:
    """Power iteration as a loop over the layers; the iterates (1, ...) are moved on.

    Returns:
        (L,) estimates, the gradient through the last application only.
    """
    sigmas = []
    for weight, iterate, geometry in zip(weights, iterates, geometries, strict=True):
        with torch.no_grad():
            v = iterate
            for _ in range(iterations):
                u = _unit(forward(geometry, weight, v))
                v = _unit(transpose(geometry, weight, u))
            u = _unit(forward(geometry, weight, v))
            iterate.copy_(v)
        sigmas.append((u * forward(geometry, weight, v)).sum())
    return torch.stack(sigmas)


def grouped_spectral_norms(weights: Sequence[Tensor], iterates: Tensor, geometry: Geometry, iterations: int) -> Tensor:
    """Power iteration of equal convolutions side by side, as groups of one convolution.

    Args:
        weights: L weights of one shape, in either memory format.
        iterates: (1, L * C, H, W), moved on.
        geometry: of one layer.
        iterations: T.

    Returns:
        (L,) estimates.
    """
    layers = len(weights)
    weight = torch.cat(list(weights)).contiguous()
    whole = Geometry(tuple(iterates.shape[1:]), geometry.stride, geometry.padding, geometry.dilation, layers)

    def unit(x: Tensor) -> Tensor:
        return F.normalize(x.view(layers, -1), dim=1, eps=0.0).view_as(x)

    with torch.no_grad():
        v = iterates
        for _ in range(iterations):
            u = unit(forward(whole, weight, v))
            v = unit(transpose(whole, weight, u))
        u = unit(forward(whole, weight, v))
        iterates.copy_(v)
    return (u * forward(whole, weight, v)).view(layers, -1).sum(dim=1)


def converged_norm(weight: Tensor, geometry: Geometry, start: Tensor, tolerance: float, most: int) -> Tensor:
    """Power iteration of one layer until an iteration changes the estimate by less than ``tolerance``."""
    v, sigma = start[None], torch.zeros((), dtype=start.dtype, device=start.device)
    for _ in range(most):
        image = forward(geometry, weight, v)
        previous, sigma = sigma, torch.linalg.vector_norm(image)
        v = _unit(transpose(geometry, weight, image))
        if (sigma - previous).abs() <= tolerance * sigma:
            break
    return sigma


def bottom_logit(logits: Tensor, head: Tensor, lipschitz: Tensor, epsilon: float) -> Tensor:
    """Return max over i != j of f_i + epsilon K ||w_i - w_j||, with j = argmax f."""
    differences = torch.cdist(head, head, compute_mode="donot_use_mm_for_euclid_dist")
    return bottom_from_differences(logits, differences, lipschitz, epsilon)


def bottom_from_differences(logits: Tensor, differences: Tensor, lipschitz: Tensor, epsilon: float) -> Tensor:
    """Return the bottom logit from the distances of the head's rows."""
    prediction = logits.argmax(dim=1)
    raised = logits + epsilon * lipschitz * differences[prediction]
    return raised.scatter(1, prediction[:, None], -torch.inf).max(dim=1).values


def trades(logits: Tensor, bottom: Tensor, labels: Tensor, lam: float) -> Tensor:
    """Return the mean TRADES-KL loss in closed form."""
    lse = logits.logsumexp(dim=1)
    true_logit = logits.gather(1, labels[:, None]).squeeze(1)
    return (lse - true_logit + lam * F.softplus(bottom - lse)).mean()


class EagerStep:
    """A step of GloRo training in plain PyTorch: the forward pass, the bound, bottom, TRADES, Adam.

    It computes what training needs and no more: no radius, no metrics.

    Args:
        network: the architecture.
        settings: memory format and optimizer.
        images: (B, C, H, W), on the device to train on.
        labels: (B,).
        compile: whether the loss is compiled by ``torch.compile``.
    """

    def __init__(
        self,
        network: Network,
        settings: Settings,
        images: Tensor,
        labels: Tensor,
        compile: bool = False,
    ) -> None:
        recipe = network.recipe
        self.module = build(network, PairSort).to(images.device, memory_format=settings.memory_format)  # type: ignore[call-overload]
        self.optimizer = adam(self.module, settings.fused)
        self._geometries = [linear.geometry for linear in network.linear_maps(images.device)]
        self.iterates = start(self._geometries, images.device)
        self._epsilon, self._iterations = recipe.epsilon, recipe.power_iterations
        self._loss = torch.compile(self.loss, fullgraph=True, dynamic=False) if compile else self.loss
        self.images = images.contiguous(memory_format=settings.memory_format)
        self.labels = labels

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch."""
        logits = self.module(images)
        weights = [layer.weight for layer in self.module if isinstance(layer, nn.Conv2d | nn.Linear)]
        lipschitz = spectral_norms(weights[:-1], self.iterates, self._geometries, self._iterations).prod()
        bottom = bottom_logit(logits, weights[-1], lipschitz, self._epsilon)
        return trades(logits, bottom, labels, LAMBDA)

    def __call__(self) -> Tensor:
        """Step on the batch given at construction."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(self.images, self.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.detach()

    def resident(self) -> list[Tensor]:
        """List the tensors that live on between steps, gradients apart."""
        moments = [value for state in self.optimizer.state.values() for value in state.values()]
        return [*self.module.parameters(), *moments, *self.iterates, self.images, self.labels]


def start(geometries: Sequence[Geometry], device: torch.device) -> list[Tensor]:
    """Draw unit iterates (1, *input_shape)."""
    generator = torch.Generator().manual_seed(0)
    return [_unit(torch.randn(1, *geometry.input_shape, generator=generator)).to(device) for geometry in geometries]


def _unit(x: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(x)
    return x / length
