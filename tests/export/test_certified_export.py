"""Exported nets give, where this package cannot be imported, radii that are no larger than ours."""

import importlib.util
import os
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn

from gloro_fast import GloRoNet, architectures
from gloro_fast.errors import ArchitectureError, CertificateError, ConfigError, ExecutionError, StaleBoundError
from gloro_fast.export import CertifyingModule, Description, export_net, read_description, writing
from gloro_fast.files.certificate_record import weights_digest
from gloro_fast.nn import MinMax, Scale

SHAPE = (1, 8, 8)
# Runs files on images.pt, in a process that has not this package.
LOADER = """
import sys, torch
sys.modules['gloro_fast'] = None
def load(path):
    if path.endswith('.onnx'):
        import onnxruntime
        session = onnxruntime.InferenceSession(path)
        return lambda x: [torch.from_numpy(v) for v in session.run(None, {'images': x.numpy()})]
    if path.startswith('aoti'):
        return torch._inductor.aoti_load_package(path)
    return torch.export.load(path).module()
batches = torch.load('images.pt')
runs = [load(path) for path in sys.argv[1:]]
torch.save([[tuple(v.detach() for v in run(x)) for x in batches] for run in runs], 'found.pt')
"""


def dense_net(seed=0):
    torch.manual_seed(seed)
    return frozen(nn.Sequential(nn.Flatten(), nn.Linear(64, 12), MinMax(), nn.Linear(12, 4)))


def frozen(module, shape=SHAPE):
    net = GloRoNet(module, 0.01, shape).eval()
    net.epsilon = float(net.certify(images(64, shape)).radius.median())
    return net.freeze()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return frozen(architectures.build("2C2F", input_shape=SHAPE, num_classes=5))


def images(count, shape=SHAPE):
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(count))


def spoiled():
    """Images of which none may be certified: NaN, infinite, or a little outside the range."""
    bad = images(5)
    for row, value in enumerate((torch.nan, torch.inf, -torch.inf, 1.0001, -1e-6)):
        bad[row, 0, 3, 3] = value
    return bad


def run_apart(folder, names, batches):
    torch.save(batches, folder / "images.pt")
    command = [sys.executable, "-c", LOADER, *names]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "found.pt")


def check_radii(net, found, x):
    logits, prediction, radius = found
    ours = net.certify(x)
    torch.testing.assert_close(logits, ours.logits, rtol=1e-4, atol=1e-5)
    assert radius.dtype == torch.float64
    # The allowance is subtracted, and small.
    assert (radius <= ours.radius).all()
    assert (radius >= ours.radius - 0.03 * ours.radius.median()).all()
    assert torch.equal(prediction, torch.where(radius > net.epsilon, ours.prediction, net.num_classes))
    assert 0 < (prediction < net.num_classes).sum() < len(x)


def test_files_give_our_radii_without_this_package(net, tmp_path):
    names = ["net.pt2"]
    if all(importlib.util.find_spec(package) for package in ("onnx", "onnxscript", "onnxruntime")):
        names.append("net.onnx")
    for name in names:
        written = export_net(net, tmp_path / name, name.partition(".")[2])
        assert read_description(tmp_path / name) == written
        assert written.weights == weights_digest(net.module)
        assert (written.epsilon, written.method, written.executed) == (net.epsilon, "auto", True)
    for many, one, bad in run_apart(tmp_path, names, [images(700), images(1), spoiled()]):
        check_radii(net, many, images(700))
        assert (one[2] <= net.certify(images(1)).radius).all()
        assert torch.equal(bad[2], torch.zeros(5, dtype=torch.float64))
        assert torch.equal(bad[1], torch.full((5,), net.num_classes))


def test_a_compiled_package_gives_our_radii_without_this_package(tmp_path):
    net, path = dense_net(), tmp_path / "aoti.pt2"
    if not os.environ.get("GLORO_FAST_AOTI"):
        pytest.skip("compiling takes most of a minute: set GLORO_FAST_AOTI=1")
    written = export_net(net, path, "aoti")
    assert read_description(path) == written
    ((many, bad),) = run_apart(tmp_path, [path.name], [images(100), spoiled()])
    check_radii(net, many, images(100))
    assert not bad[2].any()


def test_without_the_allowance_radii_are_ours_to_float64_rounding(net):
    x = images(300)
    _, prediction, radius = CertifyingModule(net, executed=False)(x)
    ours = net.certify(x)
    assert (radius <= ours.radius).all()
    torch.testing.assert_close(radius, ours.radius, rtol=1e-14, atol=0)
    assert torch.equal(prediction < net.num_classes, ours.certified)


def test_the_bound_on_rounding_holds_for_other_orders_of_the_sums(net):
    """Float64 stands for real arithmetic; the same float32 layers with their inputs and rows in other orders."""
    x = torch.cat([images(200), images(200).round(), torch.zeros(1, *SHAPE), torch.ones(1, *SHAPE)])
    reach = net.rounding_around(torch.zeros(1, *SHAPE, dtype=torch.float64))
    allowed = reach.constant[0] + reach.slope * x.double().flatten(1).norm(dim=1)[:, None, None]
    real = GloRoNet(architectures.build("2C2F", input_shape=SHAPE, num_classes=5), 0.1, SHAPE).double()
    real.load_state_dict({name: value.double() for name, value in net.state_dict().items()})
    exact = real.module.eval()(x.double())
    largest = 0.0
    with torch.no_grad():
        for layout in (torch.contiguous_format, torch.channels_last):
            for size in (1, 7, len(x)):
                parts = x.contiguous(memory_format=layout).split(size)
                logits = torch.cat([net.module(part) for part in parts]).double()
                off = (logits - exact)[:, :, None] - (logits - exact)[:, None, :]
                assert (off.abs() <= allowed).all()
                largest = max(largest, float((off.abs() / allowed.clamp_min(1e-300)).max()))
    assert largest > 1e-4


def test_the_bound_around_an_image_is_that_of_executed_certificates(net):
    x = images(6)
    own, black = (net.rounding_around(c.double()) for c in (x, torch.zeros(1, *SHAPE)))
    double = GloRoNet(architectures.build("2C2F", input_shape=SHAPE, num_classes=5), 0.1, SHAPE).double()
    double.load_state_dict({name: value.double() for name, value in net.state_dict().items()})
    certificate = net.certify(x, executed=True)
    with torch.no_grad():
        real = double.module.eval()(x.double())
    best = certificate.prediction
    gap = real.gather(1, best[:, None]) - real - own.constant[torch.arange(6), best]
    radius = gap / (net.lipschitz * net.difference_bounds + own.slope)[best]
    radius.scatter_(1, best[:, None], torch.inf)
    torch.testing.assert_close(radius.amin(dim=1), certificate.radius, rtol=1e-8, atol=0)
    away = x.double().flatten(1).norm(dim=1)[:, None, None]
    assert (black.constant + black.slope * away >= own.constant).all()


def test_an_executed_radius_holds_where_rounding_decides():
    """Two huge weights that cancel: real margins are there, float32 ones are noise."""
    layer, head = nn.Linear(64, 4), nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0], layer.weight[1] = 1e7, 1e7
        layer.weight[1, 0] += 8.0
        layer.bias.zero_()
        head.weight.copy_(torch.tensor([[1.0, -1.0, 0, 0], [-1.0, 1.0, 0, 0]]))
        head.bias.copy_(torch.tensor([1.0, 0.0]))
    net = GloRoNet(nn.Sequential(nn.Flatten(), layer, head), 0.0, SHAPE).eval().freeze()
    x = images(200)
    assert (CertifyingModule(net, executed=False)(x)[2] > 0).any()
    assert not CertifyingModule(net, executed=True)(x)[2].any()


def test_ties_certify_nothing():
    head = nn.Linear(64, 3)
    with torch.no_grad():
        head.weight[1] = head.weight[0]
        head.bias.copy_(torch.tensor([5.0, 5.0, 0.0]))
    net = GloRoNet(nn.Sequential(nn.Flatten(), head), 0.0, SHAPE).eval().freeze()
    for executed in (True, False):
        _, prediction, radius = CertifyingModule(net, executed=executed)(images(9))
        assert not radius.any()
        assert (prediction == 3).all()


def test_what_cannot_be_exported_is_refused(net, tmp_path, monkeypatch):
    path = tmp_path / "x.onnx"
    with pytest.raises(ConfigError, match="choose one of onnx, pt2, aoti"):
        export_net(net, path, "tflite")
    with pytest.raises(ConfigError, match="pixel_range"):
        export_net(net, path, pixel_range=(1.0, 0.0))
    training = dense_net().train()
    with pytest.raises(ConfigError, match=r"call net\.eval"):
        export_net(training, path)
    half = GloRoNet(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).bfloat16(), 0.1, SHAPE).eval().freeze()
    with pytest.raises(ConfigError, match="bfloat16"):
        export_net(half, path)
    stale = dense_net()
    with torch.no_grad():
        stale.module[1].weight[0, 0] += 1
    with pytest.raises(StaleBoundError):
        export_net(stale, path)
    scaled = frozen(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), Scale(4), MinMax(), nn.Linear(4, 3)))
    with pytest.raises(ConfigError, match=r"2 is multiplied .*executed=False"):
        export_net(scaled, path)
    smooth = frozen(nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Tanh(), nn.Linear(4, 3)))
    with pytest.raises(ArchitectureError, match="without executed"):
        export_net(smooth, path)
    for package in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"pip install 'gloro-fast\[onnx\]'"):
        export_net(net, path)
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    def wrong(program, description):
        content, run = writing._pt2(program, description)
        return content, lambda x: (run(x)[0] * 1.1, *run(x)[1:])

    monkeypatch.setitem(writing.FORMATS, "pt2", wrong)
    with pytest.raises(ExecutionError, match="another logits"):
        export_net(dense_net(), tmp_path / "net.pt2", "pt2")
    assert not list(tmp_path.iterdir())


def test_other_files_have_no_description(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"\xff" * 100)
    with zipfile.ZipFile(tmp_path / "b.pt2", "w") as archive:
        archive.writestr("x", "y")
    pytest.importorskip("onnx")
    for name in ("a.onnx", "b.pt2", "c.pt2"):
        with pytest.raises(CertificateError, match="export the net again"):
            read_description(tmp_path / name)
    for text in ("{}", "[]", '{"format_version": 1}'):
        with pytest.raises(ValueError, match="it "):
            Description.from_json(text)
