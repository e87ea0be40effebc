"""GloRoNet under torch.compile with its default backend, which makes C++ of a graph, or Triton on a GPU."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd

from gloro_fast import GloRoNet, architectures, convert
from gloro_fast.errors import StaleBoundError
from gloro_fast.losses import TradesLoss
from gloro_fast.net import bounded_net
from gloro_fast.ops.certify import certify_logits

SHAPE = (1, 8, 8)


def _why_no_compiler() -> str:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:
        return f"Inductor finds no C++ compiler: {str(error).splitlines()[0]}"
    return ""


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    why_not = _why_no_compiler()
    if why_not:
        pytest.skip(why_not)
    if "signing" not in request.fixturenames:
        torch._dynamo.reset()
    device: str = request.param
    return device


class SmallResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4)
        self.relu, self.pool, self.fc = nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(2), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.conv(x)))
        x = x + self.relu(self.norm(self.conv(x[:, :1])))
        # Behind the head, so that the logits themselves are made by a kernel of Inductor's.
        return torch.tanh(self.fc(torch.flatten(self.pool(x), 1))) * 3.0


def glorot() -> nn.Module:
    return architectures.build("2C2F", input_shape=SHAPE, num_classes=5)


def converted() -> nn.Module:
    return convert(SmallResNet())


def assert_signs_like(output: Tensor, expected: Tensor, net: GloRoNet) -> None:
    """The logits are the same but for rounding; bottom is what these very logits are signed with, to the last bit."""
    torch.testing.assert_close(output, expected)
    assert torch.equal(output.argmax(1), expected.argmax(1))
    assert 0 < (output.argmax(1) != 5).sum() < len(output)
    bottom = certify_logits(output[:, :5].contiguous(), net.difference_bounds, net.lipschitz, net.epsilon)[2]
    assert torch.equal(output[:, 5], bottom)


def freeze_between(net: GloRoNet, x: Tensor, certified: int) -> None:
    """Freeze the net at a radius that so many of the images have, none nearly."""
    net.unfreeze()
    radius = net.certify(x).radius.sort(descending=True).values[certified - 1 : certified + 1]
    net.epsilon = float(radius.mean())
    net.freeze()


Signing = Callable[[str], tuple[GloRoNet, Callable[[Tensor], Tensor]]]


@pytest.fixture(scope="module", params=[converted, glorot])
def signing(request: pytest.FixtureRequest) -> Signing:
    """What gives a net on a device, and what compiles it when it is called."""
    made: dict[str, tuple[GloRoNet, Callable[[Tensor], Tensor]]] = {}

    def on(device: str) -> tuple[GloRoNet, Callable[[Tensor], Tensor]]:
        if device not in made:
            torch._dynamo.reset()
            net = GloRoNet(request.param(), 0.0, SHAPE).to(device).eval()
            made[device] = net, torch.compile(net, fullgraph=True)
        return made[device]

    return on


def test_a_frozen_net_signs_as_uncompiled(signing: Signing, device: str) -> None:
    net, compiled = signing(device)
    x = torch.rand(64, *SHAPE, device=device)
    with torch.no_grad():
        freeze_between(net, x, 30)
        assert_signs_like(compiled(x), net(x), net)
        assert_signs_like(compiled(x[:33]), net(x[:33]), net)  # a graph for any number of images
        freeze_between(net, x, 50)
        assert_signs_like(compiled(x), net(x), net)
        x[0, 0, 0, 0], x[1, 0, 0, 0], x[2, 0, 0, 0] = torch.nan, torch.inf, -torch.inf
        assert torch.equal(compiled(x)[:3], x.new_tensor([[-torch.inf] * 5 + [torch.inf]] * 3))


@pytest.mark.parametrize("signing", [converted], indirect=True)
def test_a_graph_signs_neither_other_weights_nor_another_structure(signing: Signing, device: str) -> None:
    net, compiled = signing(device)
    net.unfreeze().epsilon = 0.0
    net.freeze()
    x = torch.rand(16, *SHAPE, device=device)
    with torch.no_grad():
        assert (compiled(x).argmax(1) != 5).all()
        weight = next(net.module.parameters())
        before = weight.clone()
        weight.data.view(-1)[-1] += 1e-6
        assert (compiled(x)[:, 5] == torch.inf).all()
        weight.copy_(before)
        assert (compiled(x).argmax(1) != 5).all()
        next(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)).eps = 1.0
        with pytest.raises(StaleBoundError):
            compiled(x)


def test_certificates_from_a_compiled_net_are_its_own(device: str) -> None:
    net = GloRoNet(converted(), 0.005, SHAPE).to(device).eval().freeze()
    x = torch.rand(16, *SHAPE, device=device)
    with torch.no_grad():
        mine, its = torch.compile(net.certify)(x), net.certify(x)
    torch.testing.assert_close(mine.radius, its.radius, rtol=1e-5, atol=0.0)
    signed = certify_logits(mine.logits.contiguous(), net.difference_bounds, net.lipschitz, net.epsilon)
    assert torch.equal(mine.prediction, signed[0])
    assert torch.equal(mine.radius, signed[1])


def test_a_training_step_is_that_of_the_net(device: str) -> None:
    net = GloRoNet(converted(), 0.02, SHAPE).to(device)
    twin = copy.deepcopy(net)
    compiled = torch.compile(net, fullgraph=True)
    x, y = torch.rand(16, *SHAPE, device=device), torch.randint(5, (16,), device=device)
    for _ in range(2):
        loss, expected = compiled(x, y, TradesLoss(1.5)), twin(x, y, TradesLoss(1.5))
        loss.backward()
        expected.backward()
        torch.testing.assert_close(loss, expected)
        assert torch.equal(net.batch_statistics.verified, twin.batch_statistics.verified)
    torch.testing.assert_close(
        [p.grad for p in net.parameters()], [p.grad for p in twin.parameters()], rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(net.state_dict(), twin.state_dict())


def test_off_the_cpu_fingerprint_and_signature_are_one_op_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inductor took a constant of the fingerprint's plain PyTorch for an int32; "meta" stands for a device not here."""
    torch._dynamo.reset()
    monkeypatch.setattr(bounded_net, "_no_autocast", lambda device: contextlib.nullcontext())
    net = GloRoNet(converted(), 0.005, SHAPE).eval().freeze().to("meta")
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs.append(graph)
        return graph.forward

    with torch.no_grad():
        torch.compile(net, fullgraph=True, backend=aot_autograd(fw_compiler=keep))(
            torch.empty(16, *SHAPE, device="meta")
        )
    (graph,) = graphs
    called = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    ours = sorted(name.split(".")[1].removesuffix("_reference") for name in called if name.startswith("gloro_fast."))
    assert ours == ["certify", "fingerprint", "look"]
    wide = [n for n in graph.graph.nodes if getattr(n.meta.get("val"), "dtype", None) in (torch.int64, torch.float64)]
    traced = {str(node.target) for node in wide if node.op == "call_function"}
    assert traced <= {
        "gloro_fast.fingerprint_reference.default",
        "aten.slice.Tensor",
        "aten.detach.default",
        "<built-in function getitem>",
    }
