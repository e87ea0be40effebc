import pytest
import torch
from torch import nn

from gloro_fast.fingerprint import _CHUNK, _hash, fingerprint


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (_CHUNK + 3,)])
def test_any_element_changes_the_hash(dtype, shape):
    tensor = torch.zeros(shape, dtype=dtype)
    before = _hash(tensor)
    for index in {0, tensor.numel() // 2, tensor.numel() - 1}:
        changed = tensor.clone()
        changed.view(-1)[index] = 1
        assert _hash(changed) != before


def test_a_single_bit_changes_the_hash():
    tensor = torch.ones(10)
    bits = tensor.clone().view(torch.int32)
    bits[3] ^= 1
    assert _hash(bits.view(torch.float32)) != _hash(tensor)
    assert _hash(-torch.zeros(3)) != _hash(torch.zeros(3))


def test_order_matters():
    assert _hash(torch.tensor([1.0, 2.0])) != _hash(torch.tensor([2.0, 1.0]))
    # The same value on either side of a chunk's border.
    a, b = torch.zeros(2 * _CHUNK), torch.zeros(2 * _CHUNK)
    a[0], b[_CHUNK] = 1, 1
    assert _hash(a) != _hash(b)


def test_few_collisions_among_small_changes():
    hashes = {
        int(_hash(torch.tensor([a, b, c], dtype=torch.float32)))
        for a in range(12)
        for b in range(12)
        for c in range(12)
    }
    assert len(hashes) == 12**3


def test_memory_format_and_views_are_no_change():
    conv = nn.Conv2d(4, 6, 3)
    before = fingerprint(conv)
    assert fingerprint(conv.to(memory_format=torch.channels_last)) == before
    flat = torch.cat([torch.zeros(1), conv.weight.detach().flatten()])
    conv.weight.data = flat[1:].view(6, 4, 3, 3)  # Not aligned to eight bytes.
    assert fingerprint(conv) == before


def test_structure_counts():
    assert fingerprint(nn.Conv2d(1, 1, 3, padding=1)).structure != fingerprint(nn.Conv2d(1, 1, 3, padding=0)).structure
    assert fingerprint(nn.LeakyReLU(0.1)) != fingerprint(nn.LeakyReLU(0.2))


def test_the_difference_is_named():
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    before = fingerprint(net)
    net[0].bias.data[1] += 1
    assert before.difference(fingerprint(net)) == "0.bias has changed"
    net[1] = nn.Tanh()
    assert "module 1 is now" in before.difference(fingerprint(net))
    net.append(nn.Identity())
    assert before.difference(fingerprint(nn.Sequential())) != ""
