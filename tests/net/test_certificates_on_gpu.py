"""Certificates on a real GPU: hashes of the CPU's, changes seen, and a captured graph that looks at every replay."""

import pytest
import torch
from test_bounded_net import CHANGES, by_numpy

from gloro_fast import GloRoNet, architectures, ops
from gloro_fast.errors import StaleBoundError
from gloro_fast.ops.certify import certify_logits_reference

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPE = (1, 8, 8)


def frozen():
    module = architectures.build("2C2F", input_shape=SHAPE, num_classes=5).to("cuda", memory_format=torch.channels_last)
    return GloRoNet(module, 0.05, SHAPE).eval().freeze()


def images():
    return torch.rand(300, *SHAPE, device="cuda")


def test_hashes_and_signs_are_the_cpus():
    net, x = frozen(), images()
    tensors = [*net.parameters(), *net.buffers()]
    assert torch.equal(ops.fingerprint(tensors).cpu(), ops.fingerprint([tensor.cpu() for tensor in tensors]))
    found = net.certify(x)
    prediction, radius, _ = certify_logits_reference(
        found.logits.cpu(), net.difference_bounds.cpu(), net.lipschitz, 0.05
    )
    assert torch.equal(found.prediction.cpu(), prediction)
    assert torch.equal(found.radius.cpu(), radius)
    assert torch.equal(net(x).argmax(1) != 5, found.certified)


@pytest.mark.parametrize("change", [change for change in CHANGES if change is not by_numpy])
def test_a_changed_weight_is_never_signed(change):
    net, x = frozen(), images()
    net.certify(x)
    change(net)
    net.to("cuda")
    for use in (net.certify, net):
        with pytest.raises(StaleBoundError, match="call freeze"):
            use(x.to(net.module[0].weight.dtype))


def test_a_graph_looks_at_every_replay():
    net, x = frozen(), images()
    expected = net.certify(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        certificate, logits = net.certify(x), net(x)
    graph.replay()
    assert torch.equal(certificate.radius, expected.radius)
    assert torch.equal(logits.argmax(1) != 5, expected.certified)
    weight = net.module[-1].weight.data
    kept = weight.clone()
    weight[0, 0] += 1
    graph.replay()
    assert not certificate.radius.any()
    assert (logits.argmax(1) == 5).all()
    weight.copy_(kept)
    graph.replay()
    assert torch.equal(certificate.radius, expected.radius)
    x[7, 0, 0, 0] = torch.nan
    graph.replay()
    assert certificate.radius[7] == 0
    assert logits[7].argmax() == 5
