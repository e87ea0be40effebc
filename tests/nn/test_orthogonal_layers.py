"""Orthogonal layers: their norms as bounded and as they are, their gradients, and nets of them."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast import GloRoNet
from gloro_fast.bounds import METHODS, bound_network
from gloro_fast.errors import ArchitectureError, ConfigError, StaleBoundError
from gloro_fast.losses import CrossEntropyLoss
from gloro_fast.nn import BCOP, BROConv2d, CayleyConv2d, CayleyLinear, CholeskyLinear, MinMax
from gloro_fast.nn.orthogonal_maps import block_reflector, cayley, cholesky_orthogonal
from gloro_fast.ops.strict import FLOAT32, WEIGHTS
from gloro_fast.rules.registry import lipschitz_rule

# Same numbers of channels, odd ones, more and fewer of them, strides, even and odd sides, and kernels of even size.
LAYERS = {
    "cayley": (lambda: CayleyLinear(9, 9), (9,)),
    "cayley, wide": (lambda: CayleyLinear(9, 4, bias=False), (9,)),
    "cayley, tall": (lambda: CayleyLinear(5, 8), (5,)),
    "cholesky": (lambda: CholeskyLinear(9, 9), (9,)),
    "cholesky, wide": (lambda: CholeskyLinear(9, 4, bias=False), (9,)),
    "cholesky, tall": (lambda: CholeskyLinear(5, 8), (5,)),
    "bcop": (lambda: BCOP(4, 4, 3), (4, 6, 5)),
    "bcop, more channels": (lambda: BCOP(3, 5, 3), (3, 5, 4)),
    "bcop, stride": (lambda: BCOP(3, 7, 3, 2, bias=False), (3, 6, 8)),
    "bcop, zeros": (lambda: BCOP(5, 4, 5, padding_mode="zeros"), (5, 6, 5)),
    "bcop, zeros, stride": (lambda: BCOP(1, 4, 3, 2, padding_mode="zeros"), (1, 8, 6)),
    "cayley, conv": (lambda: CayleyConv2d(4, 4, 3), (4, 6, 5)),
    "cayley, conv, more channels": (lambda: CayleyConv2d(3, 5, 2), (3, 4, 6)),
    "cayley, conv, stride": (lambda: CayleyConv2d(3, 7, 3, 2, bias=False), (3, 6, 8)),
    "bro": (lambda: BROConv2d(4, 4, 3), (4, 6, 5)),
    "bro, more channels": (lambda: BROConv2d(3, 5, 2, rank=1), (3, 4, 6)),
    "bro, stride": (lambda: BROConv2d(3, 7, 3, 2, bias=False), (3, 6, 8)),
}
ALL = pytest.mark.parametrize("name", LAYERS)


def make(name, spread=1.0):
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer = build()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_((spread - 1) * torch.randn_like(parameter))
    return layer, shape


def unrolled(layer, shape):
    """Return the matrix of the layer without its bias in float64, with the numbers that it applies in float32."""
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    with torch.no_grad():
        if isinstance(layer, nn.Linear):
            return basis @ layer.weight.double().T
        if isinstance(layer, BCOP):
            return layer._conv_forward(basis, layer.weight.double(), None).flatten(1)
        applied = copy.deepcopy(layer).double()
        applied.frequency_blocks = lambda *sizes: layer.frequency_blocks(*sizes).double()
        return (applied(basis) - applied(torch.zeros_like(basis))).flatten(1)


@ALL
def test_bounds_contain_the_norm_of_what_is_applied_and_find_it_near_one(name):
    for spread in (1.0, 4.0):
        layer, shape = make(name, spread)
        singular_values = torch.linalg.svdvals(unrolled(layer, shape))
        largest = singular_values[0].item()
        for method in ("tight", "torus", "cholesky"):
            found = bound_network([("layer", lipschitz_rule("layer", layer, shape))], method)
            # Not a hair below: all of them add more than what the singular values are off by.
            assert largest < found.lipschitz < largest * (1 + 2e-6), method
        assert largest < 1 + 1e-6
        if "zeros" not in name:
            # An isometry on the smaller side.
            assert singular_values[-1] > 1 - 1e-6


@pytest.mark.parametrize("name", ["cayley, tall", "cholesky, wide", "bcop, stride", "cayley, conv", "bro"])
def test_a_layer_that_is_not_orthogonal_is_found_out(name, monkeypatch):
    layer, shape = make(name)
    if isinstance(layer, BCOP):
        monkeypatch.setattr("gloro_fast.nn.bcop.cholesky_orthogonal", lambda matrix: 1.01 * cholesky_orthogonal(matrix))
    else:
        owner, attribute = (
            (layer, "orthogonal") if hasattr(layer, "orthogonal") else (layer.parametrizations.weight[0], "transform")
        )
        transform = getattr(owner, attribute)
        monkeypatch.setattr(owner, attribute, lambda matrix: 1.01 * transform(matrix))
    found = bound_network([("layer", lipschitz_rule("layer", layer, shape))], "tight").lipschitz
    assert found >= 1.0099


@ALL
def test_gradients_reach_the_parameters(name):
    layer, shape = make(name)
    layer = layer.double()
    x = torch.randn(2, *shape, dtype=torch.float64)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def apply(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(apply, (x.requires_grad_(), *parameters), fast_mode=True)
    gradients = torch.autograd.grad(layer(x).square().sum() + layer(x).sum(), parameters)
    assert all(gradient.isfinite().all() and gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("shape", [(3, 7, 4), (2, 4, 4), (4, 7)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_maps_give_orthonormal_rows_or_columns(shape, dtype):
    torch.manual_seed(1)
    matrix = 3 * torch.randn(shape, dtype=dtype)
    for transform in (cayley, cholesky_orthogonal):
        found = transform(matrix)
        assert found.shape == matrix.shape
        tall = found if shape[-2] >= shape[-1] else found.mH
        gram = tall.mH @ tall
        torch.testing.assert_close(gram, torch.eye(gram.shape[-1], dtype=dtype).expand_as(gram), rtol=0, atol=1e-12)
    # The rows span what they did.
    wide = matrix if shape[-2] <= shape[-1] else matrix.mT
    rows = cholesky_orthogonal(wide)
    torch.testing.assert_close(wide @ rows.mH @ rows, wide, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_block_reflector_turns_its_span_around_and_nothing_else(dtype):
    torch.manual_seed(2)
    span = torch.randn(3, 6, 2, dtype=dtype)
    found = block_reflector(span)
    torch.testing.assert_close(found @ span, -span)
    torch.testing.assert_close(found @ found, torch.eye(6, dtype=dtype).expand_as(found))
    across = torch.linalg.svd(span).U[..., 2:]
    torch.testing.assert_close(found @ across, across)


def test_the_cayley_transform_of_a_skew_matrix_is_the_textbooks():
    matrix = torch.tensor([[0.0, 0.25], [-0.25, 0.0]])
    # A = U - U^T has 1/2 there: a turn by twice its arc tangent.
    angle = 2 * math.atan(0.5)
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]], dtype=torch.float64)
    torch.testing.assert_close(cayley(matrix), turn)


@pytest.mark.parametrize("kind", [CayleyConv2d, BROConv2d])
def test_blocks_of_frequencies_are_a_circular_convolution_of_the_pixels_of_a_stride(kind):
    torch.manual_seed(3)
    layer = kind(2, 5, 3, 2).double()
    x = torch.randn(2, 2, 8, 6, dtype=torch.float64)
    # Whatever the kernel: it is read off from one pixel.
    kernel = torch.zeros(5, 8, 4, 3, dtype=torch.float64)
    with torch.no_grad():
        for channel in range(8):
            pixel = torch.zeros(1, 8, 4, 3, dtype=torch.float64)
            pixel[0, channel, 0, 0] = 1
            kernel[:, channel] = (layer(F.pixel_shuffle(pixel, 2)) - layer(0 * x[:1]))[0]
        images = F.pixel_unshuffle(x, 2)
        expected = sum(
            torch.einsum("oc,bchw->bohw", kernel[:, :, i, j], images.roll((i, j), (2, 3)))
            for i in range(4)
            for j in range(3)
        )
        torch.testing.assert_close(layer(x), expected + layer.bias[:, None, None])


@pytest.mark.parametrize("shape", [(2, 6, 6), (2, 5, 7), (2, 4, 5), (2, 3, 3)])
def test_the_rule_has_every_frequency(shape, monkeypatch):
    # Without the transform they differ: a plain circular convolution, with the norm of one frequency or another.
    for seed in range(5):
        torch.manual_seed(seed)
        layer = CayleyConv2d(2, 3, 3, bias=False).double()
        monkeypatch.setattr(layer, "orthogonal", lambda spectrum: spectrum)
        plain = nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False).double()
        plain.weight.data = layer.weight.data.flip(2, 3)
        x = torch.randn(2, *shape, dtype=torch.float64)
        torch.testing.assert_close(layer(x), plain(x))
        basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        exact = torch.linalg.matrix_norm(plain(basis).flatten(1), 2).item()
        found = bound_network([("layer", lipschitz_rule("layer", layer, shape))], "tight").lipschitz
        assert exact < found < exact * (1 + 2e-6)


def test_a_small_cayley_kernel_stays_in_the_middle():
    # I - 2 A is the first order of the transform, and A is the kernel less its transposed mirror image.
    torch.manual_seed(4)
    layer = CayleyConv2d(3, 3, 3, bias=False).double()
    layer.weight.data *= 1e-5
    x = torch.randn(1, 3, 6, 7, dtype=torch.float64)
    skew = layer.weight - layer.weight.transpose(0, 1).flip(2, 3)
    # torch's convolution is a correlation: that of the mirrored kernel.
    expected = x - 2 * F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), skew.flip(2, 3))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-8)


def test_a_stride_of_bcop_makes_channels_of_pixels():
    torch.manual_seed(5)
    strided, plain = BCOP(2, 5, 3, 2), BCOP(8, 5, 3)
    plain.load_state_dict(strided.state_dict())
    x = torch.rand(2, 2, 8, 6)
    torch.testing.assert_close(strided(x), plain(F.pixel_unshuffle(x, 2)))


def net_of(kinds):
    torch.manual_seed(6)
    first, second, head = kinds
    return GloRoNet(
        nn.Sequential(first(1, 6, 3, 2), MinMax(), second(6, 6, 3), MinMax(), nn.Flatten(), head(96, 6), MinMax(),
                      nn.Linear(6, 3)),
        0.05,
        (1, 8, 8),
    )  # fmt: skip


NETS = {
    "bcop, cholesky": (BCOP, BCOP, CholeskyLinear),
    "cayley": (CayleyConv2d, CayleyConv2d, CayleyLinear),
    "bro": (BROConv2d, BROConv2d, CholeskyLinear),
}


@pytest.mark.parametrize("kinds", NETS.values(), ids=NETS)
def test_a_net_of_them_trains_and_certifies_with_a_constant_of_one(kinds):
    net, labels = net_of(kinds), torch.arange(48) % 3
    x = (0.8 * torch.rand(3, 1, 8, 8)[labels] + 0.2 * torch.rand(48, 1, 8, 8)).clamp(0, 1)
    optimizer = torch.optim.Adam(net.parameters(), 2e-2)
    start = copy.deepcopy(net.state_dict())
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = net(x, labels, CrossEntropyLoss())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert not any(torch.equal(start[name], parameter) for name, parameter in net.named_parameters())
    net.eval()
    bounds = [layer.value for layer in net.bound.layers if layer.method != "rule"]
    assert len(bounds) == 3
    assert all(1 - 1e-5 < bound < 1 + 1e-5 for bound in bounds)
    assert math.prod(bounds) <= net.lipschitz < 1 + 1e-5

    # In the direction that shrinks the margin fastest, as far as certified: the prediction stays.
    certificate = net.certify(x)
    assert certificate.certified.any()
    exact = copy.deepcopy(net.module).double()
    images = x.double().requires_grad_()
    predicted = certificate.prediction[:, None]
    logits = exact(images)
    margin = logits.gather(1, predicted)[:, 0] - logits.scatter(1, predicted, -math.inf).amax(1)
    step = F.normalize(torch.autograd.grad(margin.sum(), images)[0].flatten(1), dim=1).view_as(x)
    moved = exact(images - 0.999 * certificate.radius[:, None, None, None] * step)
    assert torch.equal(moved.argmax(1), certificate.prediction)
    # K is no loose bound of these nets: such a step takes a good part of the margin that it is allowed to take.
    left = moved.gather(1, predicted)[:, 0] - moved.scatter(1, predicted, -math.inf).amax(1)
    assert ((left > 0) & (left < 0.75 * margin)).double().mean() > 0.5


@pytest.mark.parametrize("kinds", NETS.values(), ids=NETS)
def test_states_and_copies_are_their_own(kinds):
    net = net_of(kinds).eval()
    x = torch.rand(4, 1, 8, 8)
    other = net_of(kinds).eval()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    assert not torch.allclose(other(x), net(x))
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other(x), net(x))
    copied = copy.deepcopy(net)
    assert torch.equal(copied(x), net(x))
    kept = net.difference_bounds.clone()
    copied.module[-1].weight.data.mul_(2)
    assert (copied.difference_bounds > 1.9 * kept)[~torch.eye(3, dtype=torch.bool)].all()
    assert torch.equal(net.difference_bounds, kept)


def test_saved_nets_of_frequencies_rebuild_themselves(tmp_path):
    torch.manual_seed(8)
    module = nn.Sequential(
        BROConv2d(1, 4, 3, 2, rank=3), MinMax(), CayleyConv2d(4, 2, 3, bias=False), nn.Flatten(), nn.Linear(32, 3)
    )
    net = GloRoNet(module, 0.05, (1, 8, 8)).eval()
    net.save_pretrained(tmp_path)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(GloRoNet.from_pretrained(tmp_path).certify(x).radius, net.certify(x).radius)


def test_frozen_nets_notice_a_changed_parameter():
    net = net_of(NETS["cayley"]).eval()
    net.freeze()
    net.module[0].weight.data[0, 0, 0, 0] += 0.1
    with pytest.raises(StaleBoundError, match="was frozen"):
        net.certify(torch.rand(1, 1, 8, 8))


def test_executed_certificates_cover_what_is_a_sum_and_refuse_a_fourier_transform():
    x = torch.rand(3, 1, 8, 8)
    executed = net_of(NETS["bcop, cholesky"]).eval().certify(x, executed=True)
    assert (executed.radius < executed.real_radius).all()
    with pytest.raises(ArchitectureError, match="CayleyConv2d, whose rounding is not bounded"):
        net_of(NETS["cayley"]).eval().certify(x, executed=True)


@pytest.mark.parametrize("kinds", NETS.values(), ids=NETS)
def test_no_product_may_use_tf32(kinds, monkeypatch):
    net = net_of(kinds).eval()
    before = net.certify(torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(7)))
    for mode in (FLOAT32, WEIGHTS):
        monkeypatch.setattr(mode, "devices", ("cuda", "cpu"))
    # Watched as on a GPU: an operation that may use TF32 raises.
    after = net_of(kinds).eval().certify(torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(7)))
    torch.testing.assert_close(after.radius, before.radius, rtol=1e-4, atol=1e-6)


@ALL
def test_they_train_under_autocast_and_stay_orthogonal(name):
    layer, shape = make(name)
    x = torch.rand(2, *shape)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        bound = bound_network([("layer", lipschitz_rule("layer", layer, shape))], "tight").lipschitz
    assert bound < 1 + 2e-6
    torch.testing.assert_close(y.float(), layer(x), rtol=0.02, atol=0.02)
    y.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_settings_that_make_no_layer_are_refused():
    with pytest.raises(ConfigError, match="kernel_size is 4"):
        BCOP(2, 2, 4)
    with pytest.raises(ConfigError, match="padding_mode is 'reflect'"):
        BCOP(2, 2, 3, padding_mode="reflect")
    with pytest.raises(ConfigError, match="stride is 0"):
        CayleyConv2d(2, 2, 3, 0)
    with pytest.raises(ConfigError, match="rank is 5; give a whole number from 1 to 4"):
        BROConv2d(4, 2, 3, rank=5)
    with pytest.raises(ArchitectureError, match="it needs 3 either way"):
        lipschitz_rule("layer", CayleyConv2d(2, 2, 3), (2, 2, 6))
    with pytest.raises(ArchitectureError, match="multiples of 2"):
        lipschitz_rule("layer", CayleyConv2d(2, 2, 3, 2), (2, 7, 6))


def test_every_method_bounds_them():
    layer, shape = make("cayley, conv, stride")
    for method in METHODS:
        found = bound_network([("layer", lipschitz_rule("layer", layer, shape))], method)
        assert found.lipschitz >= 1 - 1e-3
