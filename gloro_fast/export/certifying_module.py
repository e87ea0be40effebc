"""A net with its certificate as plain operations of PyTorch, which any exporter can write down."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.ops.certify import margin_constants
from gloro_fast.rounding import up

_SHRUNK = 1 - 2.0**-50
"""What covers three roundings of float64: a result times this, rounded, is below the real number."""
_SMALLEST = 1e-290
"""A gap or radius below this counts as 0, so that no operation on it underflows."""


class CertifyingModule(nn.Module):
    """Logits, prediction and certified radius of a batch, in a program that needs nothing but PyTorch's operations.

    The radius of an image x with logits F(x), j the largest of them, is

        min over i != j of (F_j(x) - F_i(x) - 2 E_ji(x)) / (K_ji + slope_ji),

    in float64, made smaller by more than its steps round; K_ji is rounded up. E and slope are 0, or, if ``executed``,
    bound how far F_j - F_i is off the real f_j - f_i in whatever order sums are computed: by E_ji(x) at x, by
    E_ji(x) + slope_ji epsilon within epsilon of it (:class:`gloro_fast.rounding_error.Reach`, around a black image and
    a grey one, whichever gives less). Then F_j(x') > F_i(x') for every x' of the program's type with
    ||x' - x|| < radius. The logits that the net itself gives are within E of the real ones too, so that this radius is
    never above the one of ``net.certify``.

    Ties, logits that are not finite, and images with a pixel outside of the range or NaN get radius 0.

    Args:
        net: a float32 or float64 net on the CPU, in evaluation mode; its bound is that of ``net.bound``.
        pixel_range: smallest and largest pixel that an image may have.
        executed: cover rounding.

    Raises:
        ConfigError: the net is in training, on another device or in half precision; the range is none.
        StaleBoundError: the net is frozen and its weights have changed.
        ArchitectureError: executed, and it is not known how a layer rounds; names it.
    """

    constants: Tensor
    centres: Tensor
    rounding: Tensor
    slope: Tensor

    def __init__(self, net: GloRoNet, pixel_range: tuple[float, float] = (0.0, 1.0), executed: bool = True) -> None:
        super().__init__()
        _check(net, pixel_range)
        self.net = net
        self.epsilon = net.epsilon
        self.low, self.high = map(float, pixel_range)
        self.executed = executed
        self.most = torch.inf
        constants = margin_constants(net.difference_bounds, net.lipschitz)
        if executed:
            around = net.rounding_around(_centres(net, self.low, self.high))
            constants = up(constants + around.slope)
            self.register_buffer("centres", around.centres)
            self.register_buffer("rounding", _known(around.constant * 2.0))
            self.register_buffer("slope", _known(around.slope * 2.0))
            # No image is further from a point than this, so that all within ``most`` of one are within the limit.
            widest = math.sqrt(math.prod(net.input_shape)) * (self.high - self.low) * (1 + 2.0**-40)
            self.most = max(0.0, float(around.limit.min()) * (1 - 2.0**-40) - widest)
        self.register_buffer("constants", _known(constants))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, prediction and radius.

        Args:
            images: (B, *input_shape) of the net's dtype.

        Returns:
            logits: (B, m) of the classes.
            prediction: (B,) int64, the class where ``radius > epsilon``, else m, which stands for bottom.
            radius: (B,) float64.
        """
        logits = self.net.class_logits(images)
        within = ((images >= self.low) & (images <= self.high)).flatten(1).all(dim=1)
        usable = within & (logits.abs() < torch.inf).all(dim=1)
        values = torch.where(usable[:, None], logits, 0.0).double()
        best = values.argmax(dim=1)
        gap = (values.gather(1, best[:, None]) - values) * _SHRUNK
        if self.executed:
            gap = gap - self._rounding_at(images, best)
        limit = torch.where(gap > _SMALLEST, gap / self.constants[best] * _SHRUNK, 0.0)
        own = torch.arange(values.shape[1], device=values.device)[None, :] == best[:, None]
        radius = torch.where(own, torch.inf, limit).amin(dim=1).clamp(max=self.most)
        radius = torch.where(usable & (radius > _SMALLEST), radius, 0.0)
        prediction = torch.where(radius > self.epsilon, best, values.shape[1])
        return logits, prediction, radius

    def _rounding_at(self, images: Tensor, best: Tensor) -> Tensor:
        """Return 2 E_ji(x), rounded up: (B, m)."""
        away = images.double()[:, None] - self.centres
        distance = away.square().flatten(2).sum(dim=2).sqrt() * self._enlarged
        slope = self.slope[best]
        each = [self.rounding[which][best] + slope * distance[:, which, None] for which in range(self.centres.shape[0])]
        return torch.stack(each).amin(dim=0) * (1 + 2.0**-50)

    @property
    def _enlarged(self) -> float:
        """What covers the rounding of a distance: n + 4 roundings, of numbers that do not underflow to matter."""
        return 1 + (math.prod(self.net.input_shape) + 8) * 2.0**-52


def _centres(net: GloRoNet, low: float, high: float) -> Tensor:
    """Return a black image and a grey one: most of the first kind of image is near one, most photographs the other."""
    shades = torch.tensor([low, (low + high) / 2], dtype=torch.float64)
    return torch.stack([torch.full(net.input_shape, float(shade), dtype=torch.float64) for shade in shades])


def _known(bounds: Tensor) -> Tensor:
    """Return them with inf, which certifies nothing, in the place of what is not known."""
    return bounds.nan_to_num(nan=torch.inf, posinf=torch.inf)


def _check(net: GloRoNet, pixel_range: tuple[float, float]) -> None:
    if net.training:
        raise ConfigError("the net is in training; call net.eval() before exporting it")
    parameter = next(net.parameters(), None)
    if parameter is not None and parameter.device.type != "cpu":
        raise ConfigError(f"the net is on {parameter.device}; export it from the CPU: net.cpu()")
    if parameter is not None and parameter.dtype not in (torch.float32, torch.float64):
        raise ConfigError(f"the net is {parameter.dtype}; convert it with .float() before exporting it")
    low, high = map(float, pixel_range)
    if not -torch.inf < low < high < torch.inf:
        raise ConfigError(f"pixel_range is {pixel_range}; give two finite numbers, the smaller one first")
