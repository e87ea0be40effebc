"""A model in the style of torchvision's ResNet-18, as a user wrote it: converted, trained, certified, and back."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast import GloRoNet, convert, revert
from gloro_fast.errors import ArchitectureError, ConfigError
from gloro_fast.graph.execution import BiasedMinMax
from gloro_fast.graph.merging import Merged
from gloro_fast.losses import TradesLoss
from gloro_fast.nn import LipschitzConstant, PairwiseMinMax, register_lipschitz_rule
from gloro_fast.rules import registry

SHAPE = (3, 16, 16)


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):
    def __init__(self, width=4, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        for index in range(4):
            inputs, outputs = widths[index : index + 2]
            blocks = [BasicBlock(inputs, outputs, 1 if index == 0 else 2), BasicBlock(outputs, outputs, 1)]
            self.add_module(f"layer{index + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def rectifiers(model):
    return sum(isinstance(m, nn.ReLU) for m in model.modules())


def test_a_copy_has_minmax_and_the_same_tensors():
    model = ResNet18()
    converted = convert(model)
    assert rectifiers(model) == 9
    assert rectifiers(converted) == 0
    assert list(converted.state_dict()) == list(model.state_dict())
    tensors = zip([*model.parameters(), *model.buffers()], [*converted.parameters(), *converted.buffers()], strict=True)
    assert all(mine is its for mine, its in tensors)
    back = revert(converted)
    x = torch.rand(4, *SHAPE)
    assert torch.equal(back.eval()(x), copy.deepcopy(model).eval()(x))
    assert not torch.allclose(converted.eval()(x), back(x))
    assert rectifiers(converted) == 0


def test_in_place_and_back():
    model = ResNet18()
    assert convert(model, inplace=True) is model
    assert rectifiers(model) == 0
    assert revert(model, inplace=True) is model
    assert rectifiers(model) == 9
    assert convert(model, "keep", inplace=True) is model
    assert rectifiers(model) == 9


@pytest.mark.parametrize("kind", ["minmax", "relu"])
def test_resnet18_has_executed_certificates(kind):
    torch.manual_seed(0)
    model = convert(ResNet18()) if kind == "minmax" else ResNet18()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.3, 3)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -1, 1)
    net = GloRoNet(model, 1e-3, SHAPE).eval()
    certificate = net.certify(torch.rand(8, *SHAPE), executed=True)
    assert certificate.executed
    assert (certificate.radius < certificate.real_radius).all()
    assert (certificate.radius > 0.5 * certificate.real_radius).all()


def test_resnet18_trains_and_certifies():
    net = GloRoNet(convert(ResNet18(), inplace=True), 0.001, SHAPE)
    x, y = torch.rand(8, *SHAPE), torch.randint(10, (8,))
    net(x, y, TradesLoss(1.0)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.module.parameters())
    # Every BatchNorm is taken in by the convolution before it; the head is dense.
    merged = [part.name for part in net._plan.parts if isinstance(part, Merged)]
    assert len(merged) == 20
    assert net._plan.head.dense.module is net.module.fc
    net.eval()
    torch.testing.assert_close(net(x)[:, :10], net.module(x))
    a, b = x, x + 0.01 * torch.randn_like(x)
    moved = (net.module(a) - net.module(b)).norm(dim=1) / (a - b).flatten(1).norm(dim=1)
    weight = torch.linalg.matrix_norm(net.module.fc.weight, 2)
    assert 0 < moved.max() <= net.freeze("torus").lipschitz * weight


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_what_was_converted(duplicate):
    model = duplicate(convert(ResNet18()))
    x = torch.rand(2, *SHAPE)
    net = GloRoNet(model, 0.1, SHAPE).eval().freeze()
    twin = duplicate(net)
    assert torch.equal(twin.certify(x).radius, net.certify(x).radius)
    assert rectifiers(revert(duplicate(model))) == 9


@pytest.mark.parametrize("channels", [1, 4, 5])
def test_the_last_of_an_odd_number_of_channels_goes_through(channels):
    x = torch.randn(3, channels, 2, 2, dtype=torch.float64)
    y = PairwiseMinMax()(x)
    assert torch.equal(y.sort(1).values, x.sort(1).values)
    even = channels // 2 * 2
    assert (y[:, 0:even:2] <= y[:, 1:even:2]).all()
    assert torch.equal(y[:, even:], x[:, even:])


def test_an_even_number_is_fused_with_the_bias():
    for channels in (4, 5):
        head = nn.Linear(channels * 14 * 14, 3)
        net = GloRoNet(convert(nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.Flatten(), head)), 0.1, SHAPE)
        assert isinstance(net._plan.program.chain[0], BiasedMinMax) == (channels == 4)


def test_a_layer_with_a_rule_of_its_own_is_left_alone(monkeypatch):
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))

    class Block(nn.Sequential):
        pass

    register_lipschitz_rule(Block)(lambda module, shape: LipschitzConstant(1.0))
    assert rectifiers(convert(nn.Sequential(Block(nn.ReLU()), nn.ReLU()))) == 1


class Functional(nn.Module):
    """As most code for CIFAR-10 has its activations."""

    def __init__(self, function, channels=4):
        super().__init__()
        self.function, self.conv = function, nn.Conv2d(3, channels, 3)
        self.head = nn.Linear(channels * 14 * 14, 3)

    def forward(self, x):
        return self.head(self.function(self.conv(x)).flatten(1))


FUNCTIONS = {
    "F.relu": F.relu,
    "in place": lambda x: F.relu(x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu": torch.relu,
    "x.relu": torch.Tensor.relu,
    "x.relu_": torch.Tensor.relu_,
    "F.gelu": F.gelu,
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.1, True),
    "F.silu": lambda x: F.silu(input=x),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("channels", [4, 5])
def test_activations_that_are_called_as_functions_are_swapped(function, channels):
    model = Functional(function, channels)
    converted = convert(model)
    x = torch.randn(2, *SHAPE)
    wanted = model.head(PairwiseMinMax()(model.conv(x)).flatten(1))
    torch.testing.assert_close(converted(x), wanted)
    assert list(converted.state_dict()) == list(model.state_dict())
    net = GloRoNet(converted, 0.1, SHAPE).eval()
    torch.testing.assert_close(net(x)[:, :3], wanted)
    assert torch.equal(revert(converted)(x), model(x))
    assert not torch.allclose(model(x), wanted)
    for twin in (copy.deepcopy(converted), pickle.loads(pickle.dumps(convert(ResNet18())))):
        assert convert(twin).state_dict().keys() == twin.state_dict().keys()
    assert torch.equal(copy.deepcopy(converted)(x), converted(x))


def test_a_function_that_is_no_rectifier_stays():
    model = Functional(torch.tanh)
    x = torch.randn(2, *SHAPE)
    assert torch.equal(convert(model)(x), model(x))


def test_layers_with_a_forward_of_their_own_and_unknown_names_are_refused():
    model = nn.Sequential(nn.ReLU())
    with pytest.raises(ConfigError, match="'minmax'"):
        convert(model, "minimax")
    model[0].forward = torch.relu
    with pytest.raises(ArchitectureError, match=r"0 \(ReLU\) has its own forward"):
        convert(model)
