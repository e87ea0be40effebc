"""Programs that outlive this package: torch.export, TorchScript and ONNX files of classifiers and of frozen nets."""

import io
import subprocess
import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gloro_fast import GloRoNet, convert
from gloro_fast.errors import ConfigError
from gloro_fast.nn import MinMax, PairwiseMinMax


class Functional(nn.Module):
    """A rectifier called as a function, which ``convert`` swaps."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3), nn.Linear(64, 3)

    def forward(self, x):
        return self.head(F.relu(self.conv(x)).flatten(1))


CLASSIFIERS = {
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 8), MinMax(), nn.Linear(8, 3)),
    "in place": lambda: nn.Sequential(nn.Conv2d(1, 4, 3), MinMax(inplace=True), nn.Flatten(), nn.Linear(64, 3)),
    "odd": lambda: nn.Sequential(nn.Conv2d(1, 5, 3), PairwiseMinMax(), nn.Flatten(), nn.Linear(80, 3)),
    "converted": lambda: convert(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))),
    "functional": lambda: convert(Functional()),
}


@pytest.fixture(params=CLASSIFIERS)
def classifier(request):
    torch.manual_seed(0)
    return CLASSIFIERS[request.param]().eval()


def images(count):
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(count))


def test_exported_classifiers_load_without_this_package(tmp_path):
    torch.manual_seed(0)
    expected = {}
    for kind, make in CLASSIFIERS.items():
        model = make().eval()
        program = torch.export.export(model, (images(4),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        torch.export.save(program, tmp_path / f"{kind}.pt2")
        expected[kind] = model(images(7)).detach()
    torch.save((images(7), expected), tmp_path / "expected.pt")
    code = (
        "import sys, torch\n"
        "sys.modules['gloro_fast'] = None\n"
        "x, expected = torch.load('expected.pt')\n"
        "for kind, logits in expected.items():\n"
        "    torch.testing.assert_close(torch.export.load(kind + '.pt2').module()(x), logits)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_traced_classifier_is_plain_torchscript(classifier):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(classifier, images(4))
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert all(kind.startswith(("aten::", "prim::")) and "Python" not in kind for kind in kinds)
    torch.testing.assert_close(traced(images(7)), classifier(images(7)))


def test_an_exported_classifier_has_the_same_gradients(classifier):
    program = torch.export.export(classifier, (images(4),)).module()
    gradients = []
    for model in (classifier, program):
        model.zero_grad()
        model(images(4)).square().sum().backward()
        gradients.append(dict(model.named_parameters()))
    for name, parameter in gradients[0].items():
        torch.testing.assert_close(parameter.grad, gradients[1][name].grad)


@pytest.mark.parametrize("strict", [False, True])
def test_a_frozen_net_is_saved_and_loaded_with_its_certificate(classifier, tmp_path, strict):
    net = GloRoNet(classifier, 0.01, (1, 6, 6)).eval().freeze()
    x = images(16)
    torch.export.save(torch.export.export(net, (x,), strict=strict), tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    with torch.no_grad():
        expected, got = net(x), loaded(x)
        torch.testing.assert_close(got, expected)
        assert torch.equal(got.argmax(1), expected.argmax(1))
        certified = expected.argmax(1) != 3
        assert certified.any()
        # One bit of one weight, which changes no prediction.
        weight = next(parameter for name, parameter in loaded.named_parameters() if name.endswith("weight"))
        weight.view(torch.int32).view(-1)[0] ^= 1
        changed = loaded(x)
        torch.testing.assert_close(changed[:, :3], expected[:, :3])
        assert (changed.argmax(1) == 3).all()


@pytest.fixture
def onnx():
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnxruntime

    def run(model, dynamo):
        file = io.BytesIO()
        dynamic = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)} if dynamo else {"dynamic_axes": {"x": {0: "b"}}}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(model, (images(4),), file, dynamo=dynamo, input_names=["x"], verbose=False, **dynamic)
        session = onnxruntime.InferenceSession(file.getvalue())
        return lambda x: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])

    return run


@pytest.mark.parametrize("dynamo", [True, False])
def test_an_onnx_file_of_a_classifier_gives_its_logits(classifier, onnx, dynamo):
    x = images(7)
    x[0, 0, 0, 0] = torch.nan
    with torch.no_grad():
        torch.testing.assert_close(onnx(classifier, dynamo)(x), classifier(x), rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("dynamo", [True, False])
def test_an_onnx_file_of_a_frozen_net_is_refused(onnx, dynamo):
    net = GloRoNet(CLASSIFIERS["dense"](), 0.01, (1, 6, 6)).eval().freeze()
    with pytest.raises(Exception, match=r"cannot compare its weights.*export net\.module") as caught:
        onnx(net, dynamo)
    assert isinstance(caught.value if not dynamo else caught.value.__cause__, ConfigError)
