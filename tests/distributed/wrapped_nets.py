"""Nets that each of two processes wraps in what PyTorch has for several, and what comes of it."""

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from gloro_fast import GloRoNet
from gloro_fast.errors import ArchitectureError
from gloro_fast.losses import TradesLoss
from gloro_fast.nn import MinMax

STEPS = 8


def small_net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1), MinMax(), nn.Flatten(), nn.Linear(256, 32), MinMax(), nn.Linear(32, 4)]
    return GloRoNet(nn.Sequential(*layers), 0.1, (1, 8, 8))


def train(net, wrapped, part):
    """Take some steps on a part of each batch."""
    optimizer, criterion = torch.optim.Adam(net.parameters(), 1e-3), TradesLoss(1.0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        images, labels = torch.rand(16, 1, 8, 8, generator=generator), torch.randint(4, (16,), generator=generator)
        optimizer.zero_grad()
        wrapped(images[part], labels[part], criterion).backward()
        optimizer.step()
    return images


def refused(act):
    try:
        act()
    except ArchitectureError as error:
        return str(error)
    return ""


def wrap(group):
    """Train under DistributedDataParallel and FSDP2, and compare with a net that saw whole batches."""
    found, whole = {}, small_net()
    images = train(whole, whole, slice(None))
    reference = torch.cat([tensor.flatten() for tensor in whole.state_dict().values()])

    net = small_net()
    train(net, DistributedDataParallel(net), group.part(16))
    state = torch.cat([tensor.flatten() for tensor in net.state_dict().values()])
    both = group.gather(state[None])
    found["ddp"] = {
        "off by": (state - reference).abs().max().item(),
        "differ": 0 if both is None else int((both[0] != both[1]).sum()),
    }

    mesh, net = init_device_mesh("cpu", (2,)), small_net()
    fully_shard(net, mesh=mesh)
    train(net, net, group.part(16))
    net.eval()
    found["sharded certify"] = refused(lambda: net.certify(images))
    net.unshard()
    radius = net.certify(images).radius
    found["fsdp off by"] = (radius - whole.eval().certify(images).radius).abs().max().item()
    net.reshard()
    found["sharded again"] = refused(lambda: net.certify(images))
    part = small_net()
    fully_shard(part.module[3], mesh=mesh)
    found["part sharded"] = refused(lambda: part(images, torch.zeros(16, dtype=torch.int64), TradesLoss(1.0)))
    before = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    fully_shard(before, mesh=mesh)
    found["sharded before"] = refused(lambda: GloRoNet(before, 0.1, (1, 8, 8)))
    return found
