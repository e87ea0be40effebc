import torch
from torch import nn

from gloro_fast.net.net_fingerprint import fingerprint


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
