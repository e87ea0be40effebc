"""Tell the package the Lipschitz constant of a layer of your own; until then what the layer does is refused.

    python examples/register_rule.py

Needs nothing else.
"""

import torch
from torch import Tensor, nn

from gloro_fast import GloRoNet
from gloro_fast.errors import UnknownLayerError
from gloro_fast.nn import LipschitzConstant, MinMax, register_lipschitz_rule


class Swirl(nn.Module):
    """Turn each pair of features by an angle that grows with its norm, and stretch it by ``gain``."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))

    def forward(self, x: Tensor) -> Tensor:
        """Return the turned pairs of ``x`` (B, 2 n)."""
        a, b = x.unflatten(1, (-1, 2)).unbind(-1)
        angle = torch.tanh((a.square() + b.square() + 1e-12).sqrt())
        turned = torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)
        return self.gain * turned.flatten(1)


def swirl_constant(module: nn.Module, input_shape: tuple[int, ...]) -> LipschitzConstant:
    """Bound a swirl.

    In polar coordinates it is (r, t) -> (r, t + tanh r), whose derivative is, between rotations,
    [[1, 0], [r sech^2 r, 1]]. r sech^2 r is at most 0.4478, so that the norm is at most that of [[1, 0], [0.45, 1]],
    which is below 1.26.
    """
    assert isinstance(module, Swirl)
    # A tensor that autograd records: the gain is trained by the bound, too.
    return LipschitzConstant(1.26 * module.gain.abs(), kind="upper bound")


def main() -> None:
    """Be refused, register the rule, certify, and try the rule out."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), Swirl(0.5), nn.Linear(8, 8), MinMax(), nn.Linear(8, 3))
    try:
        GloRoNet(module, epsilon=0.5, input_shape=(6,))
    except UnknownLayerError as error:
        print(f"refused: {error}")

    register_lipschitz_rule(Swirl)(swirl_constant)
    net = GloRoNet(module, epsilon=0.5, input_shape=(6,)).eval()
    certificate = net.certify(torch.rand(100, 6))
    print(f"certified radius {certificate.radius.median():.3f} (median), K {certificate.lipschitz:.4g}")

    # A rule is taken at its word, so try it: the largest singular value of the derivative at many points.
    swirl, points = Swirl(0.5).double(), 2 * torch.randn(2000, 2, dtype=torch.float64)
    derivatives = torch.func.vmap(torch.func.jacrev(lambda x: swirl(x[None])[0]))(points)
    largest = torch.linalg.matrix_norm(derivatives, 2).max().item()
    bound = float(swirl_constant(swirl, (2,)).value)
    print(f"largest slope found {largest:.4f}, bound {bound:.4f}")
    assert largest <= bound


if __name__ == "__main__":
    main()
