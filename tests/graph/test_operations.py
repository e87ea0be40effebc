"""Constants of operations against Jacobians in float64, and operations that have none."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.errors import ArchitectureError, UnknownLayerError

SHAPE = (3, 4, 4)


class Model(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body, self.low = body, nn.Parameter(torch.tensor(-0.5))
        self.kernel, self.slopes = nn.Parameter(torch.randn(3, 2, 3, 3)), nn.Parameter(torch.tensor([0.3, -2.0, 1.0]))
        self.matrix, self.bias = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        return self.body(self, x).flatten(1)


# Each with whether some input reaches the constant.
BOUNDED = {
    "clamp between tensors": (lambda m, x: x.clamp(m.low, m.low.abs()), True),
    "Euclidean norm": (lambda m, x: torch.linalg.vector_norm(x, dim=(2, 3)), True),
    "logsumexp": (lambda m, x: x.logsumexp((2, 3)), False),
    "overlapping windows": (lambda m, x: F.unfold(x, 3, padding=1), True),
    "dilated windows": (lambda m, x: F.unfold(x, 2, dilation=2, stride=1), True),
    "unfold": (lambda m, x: x.unfold(2, 3, 1), True),
    "every other row": (lambda m, x: x[:, :, ::2], True),
    "repeat": (lambda m, x: x.repeat(1, 2, 1, 3), True),
    "expand": (lambda m, x: x[:, :, None].expand(-1, -1, 5, 4, 4), True),
    "reflected": (lambda m, x: F.pad(x, (2, 1, 1, 3), mode="reflect"), True),
    "replicated": (lambda m, x: F.pad(x, (0, 3, 2, 0), mode="replicate"), True),
    "wrapped": (lambda m, x: F.pad(x, (1, 1, 1, 1), mode="circular"), True),
    "prelu": (lambda m, x: F.prelu(x, m.slopes), True),
    "scaled and added": (lambda m, x: torch.addcmul(m.slopes.reshape(3, 1, 1), x, m.slopes.reshape(1, 3, 1, 1)), True),
    "addmm": (lambda m, x: torch.addmm(m.bias, x.mean((2, 1)), m.matrix), True),
    "matmul": (lambda m, x: x @ m.matrix, True),
    "transposed convolution": (
        lambda m, x: F.conv_transpose2d(x, m.kernel, stride=2, padding=1, output_padding=1),
        True,
    ),
    "convolution, same": (lambda m, x: F.conv2d(x, m.kernel.transpose(0, 1), padding="same", dilation=1), True),
    "batch_norm": (
        lambda m, x: F.batch_norm(x, m.slopes.detach(), m.slopes.detach().exp(), m.slopes, m.slopes, eps=0.1),
        True,
    ),
    "largest along": (lambda m, x: x.max(2)[0] + x.min(3).values, False),
    "sum with alpha": (lambda m, x: torch.sub(x, x.relu(), alpha=-2), True),
    "reversed difference": (lambda m, x: torch.rsub(x, 1.0, alpha=2), True),
    "broadcast": (lambda m, x: x.amax(1, keepdim=True) - x, False),
    "a constant beside": (lambda m, x: torch.cat([x, x.new_zeros(x.shape[0], 2, 4, 4)], 1), True),
    "halves swapped": (lambda m, x: torch.cat(x.chunk(2, 3)[::-1], 3), True),
    "a part twice": (lambda m, x: torch.cat([x[:, :1], x[:, :1]], 1), True),
}


@pytest.mark.parametrize("case", BOUNDED)
def test_no_slope_exceeds_the_constant(case):
    torch.manual_seed(0)
    body, reached = BOUNDED[case]
    module = Model(body).double()
    net = GloRoNet(module, 0.1, SHAPE, margins="whole").eval()
    bound, largest = net.lipschitz, 0.0
    for _ in range(20):
        x = 2 * torch.randn(1, *SHAPE, dtype=torch.float64)
        jacobian = torch.autograd.functional.jacobian(lambda x: module(x)[0], x).flatten(1)
        largest = max(largest, torch.linalg.matrix_norm(jacobian, 2).item())
    assert 0 < largest <= bound * (1 + 1e-9)
    # The torus of a small image is loose.
    assert not reached or bound <= 1.7 * largest


UNBOUNDED = {
    "places of the largest": lambda m, x: x.max(2)[1].to(x.dtype),
    "places of pooling": lambda m, x: F.adaptive_max_pool2d(x, 2, return_indices=True)[1].to(x.dtype),
    "argmax": lambda m, x: x.argmax(2).to(x.dtype),
    "comparison": lambda m, x: (x > 0).to(x.dtype),
    "mask": lambda m, x: x * (x > 0),
    "rounding": lambda m, x: x.round(),
    "whole numbers": lambda m, x: x.long().to(x.dtype),
    "a narrower type": lambda m, x: x.half().float(),
    "cumulative sums": lambda m, x: x.cumsum(2),
    "another norm": lambda m, x: torch.linalg.vector_norm(x, 1, dim=(2, 3)),
    "bounds of the images": lambda m, x: torch.clamp(x, -x),
    "images side by side": lambda m, x: torch.stack([x, x], 0).mean(0),
    "a number for each image": lambda m, x: x + torch.arange(len(x)).reshape(-1, 1, 1, 1),
}


@pytest.mark.parametrize("case", UNBOUNDED)
def test_what_has_no_constant_is_refused(case):
    with pytest.raises((ArchitectureError, UnknownLayerError)) as caught:
        GloRoNet(Model(UNBOUNDED[case]), 0.1, SHAPE)
    assert "\n" not in str(caught.value)
