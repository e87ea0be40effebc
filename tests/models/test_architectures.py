import pytest
import torch
from torch import nn

from gloro_fast import architectures
from gloro_fast.errors import ArchitectureError, ConfigError
from gloro_fast.nn import MinMax

# Parameters counted by hand from Appendix B: weights + biases, layer by layer.
PARAMETERS = {
    ("2C2F", (1, 28, 28), 10): (16 * 16 + 16) + (32 * 16 * 16 + 32) + (1568 * 100 + 100) + (100 * 10 + 10),
    ("4C3F", (1, 28, 28), 10): (32 * 9 + 32)
    + (32 * 32 * 16 + 32)
    + (64 * 32 * 9 + 64)
    + (64 * 64 * 16 + 64)
    + (64 * 49 * 512 + 512)
    + (512 * 512 + 512)
    + (512 * 10 + 10),
    ("6C2F", (3, 32, 32), 10): (32 * 27 + 32)
    + (32 * 32 * 9 + 32)
    + (32 * 32 * 16 + 32)
    + (64 * 32 * 9 + 64)
    + (64 * 64 * 9 + 64)
    + (64 * 64 * 16 + 64)
    + (64 * 64 * 512 + 512)
    + (512 * 10 + 10),
    ("MLP-2x16", (1, 28, 28), 10): (784 * 16 + 16) + (16 * 16 + 16) + (16 * 10 + 10),
    ("MLP-1x32", (3, 8, 8), 5): (192 * 32 + 32) + (32 * 5 + 5),
}


@pytest.mark.parametrize(("name", "shape", "classes"), PARAMETERS)
def test_sizes(name, shape, classes):
    net = architectures.build(name, input_shape=shape, num_classes=classes)
    assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name, shape, classes]
    assert net(torch.zeros(2, *shape)).shape == (2, classes)


@pytest.mark.parametrize(("name", "layers"), [("8C2F", 10), ("8C2F-print", 8)])
def test_both_versions_of_8c2f(name, layers):
    net = architectures.build(name, input_shape=(3, 64, 64), num_classes=200)
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in net) == layers
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 200)


@pytest.mark.parametrize(("activation", "kind"), [("minmax", MinMax), ("relu", nn.ReLU)])
def test_an_activation_after_every_layer_but_the_last(activation, kind):
    net = architectures.build("2C2F", activation, input_shape=(1, 8, 8), num_classes=10)
    assert sum(isinstance(layer, kind) for layer in net) == 3
    assert isinstance(net[-1], nn.Linear)


def test_initializations():
    net = architectures.build("2C2F", input_shape=(1, 8, 8), num_classes=10)
    for layer in (layer for layer in net if isinstance(layer, nn.Conv2d | nn.Linear)):
        matrix = layer.weight.detach().flatten(1)
        gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
        torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-5)
        assert not layer.bias.any()
    glorot = architectures.build("2C2F", input_shape=(1, 8, 8), num_classes=10, initialization="glorot_uniform")
    limit = (6 / (100 + 10)) ** 0.5
    assert 0.9 * limit < glorot[-1].weight.abs().max() <= limit


def test_same_seed_same_net():
    torch.manual_seed(1)
    first = architectures.build("2C2F", input_shape=(1, 8, 8), num_classes=10)
    torch.manual_seed(1)
    second = architectures.build("2C2F", input_shape=(1, 8, 8), num_classes=10)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_unknown_names():
    with pytest.raises(ConfigError, match="'6C2F'"):
        architectures.build("6C2", input_shape=(3, 32, 32), num_classes=10)
    with pytest.raises(ConfigError, match="'MLP-2x256'"):
        architectures.build("MLP-0x256", input_shape=(3, 32, 32), num_classes=10)
    with pytest.raises(ConfigError, match="'minmax'"):
        architectures.build("2C2F", "minimax", input_shape=(3, 32, 32), num_classes=10)


def test_shapes_that_make_no_classifier():
    with pytest.raises(ArchitectureError, match="input_shape"):
        architectures.build("2C2F", input_shape=(28, 28), num_classes=10)
    with pytest.raises(ArchitectureError, match="at least 2"):
        architectures.build("2C2F", input_shape=(1, 28, 28), num_classes=1)
