"""Forwards that compute within contexts: gradients, autocast, and contexts that change nothing."""

import contextlib
import warnings

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from module_pieces.registry import BOTH, written


def layer(self, choose, shape):
    self.layer = nn.Linear(shape[-1], 6)


def autocast(self, choose, shape):
    self.layer, self.conv = nn.Linear(shape[-1], 6), nn.Conv2d(shape[0], shape[0], 1)


@contextlib.contextmanager
def timed(times):
    times.append(1)
    yield


@written("no_grad around the weight", layer, ranks=BOTH)
def no_grad_weight(self, x):
    with torch.no_grad():
        weight = self.layer.weight / 2
    return F.linear(x, weight, self.layer.bias)


@written("no_grad around a branch", layer, ranks=BOTH)
def no_grad_branch(self, x):
    with torch.no_grad():
        fixed = self.layer(x)
    return fixed + self.layer(x).relu()


@written("no_grad as a decorator", layer, ranks=BOTH)
@torch.no_grad()
def no_grad_decorator(self, x):
    return self.layer(x)


@written("enable_grad", layer, ranks=BOTH)
def enable_grad(self, x):
    with torch.enable_grad():
        return self.layer(x)


@written("set_grad_enabled(self.training)", layer, ranks=BOTH)
def set_grad_enabled(self, x):
    with torch.set_grad_enabled(self.training):
        y = self.layer(x)
    return y * 0.5


@written("inference_mode", layer, ranks=BOTH, legal=False)
def inference_mode(self, x):
    with torch.inference_mode():
        y = self.layer(x)
    return y.clone() * 0.5


@written("detach", layer, ranks=BOTH)
def detached(self, x):
    return self.layer(x.detach()) + self.layer(x) * 0.5


@written("autocast to bfloat16", autocast, legal=False, rounds=True)
def to_bfloat16(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = self.layer(self.conv(x))
    return y.float()


@written("autocast to bfloat16, added outside", autocast, legal=False, rounds=True)
def to_bfloat16_and_back(self, x):
    with torch.autocast(device_type=x.device.type, dtype=torch.bfloat16):
        y = F.relu(self.conv(x))
    return x + y


@written("autocast as a decorator", autocast, legal=False, rounds=True)
@torch.autocast("cpu", dtype=torch.bfloat16)
def decorated(self, x):
    return self.layer(x).float()


@written("a weight in bfloat16", layer, ranks=BOTH, legal=False)
def rounded_weight(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weight = self.layer.weight @ torch.eye(self.layer.in_features)
    return F.linear(x, weight.to(x.dtype))


@written("autocast within autocast", autocast, legal=False, rounds=True)
def nested(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = self.conv(x)
        with torch.autocast("cpu", enabled=False):
            return self.layer(y.float())


@written("autocast switched off", autocast)
def without_autocast(self, x):
    with torch.autocast("cpu", enabled=False):
        return self.layer(self.conv(x.float()))


@written("autocast switched off for its device", autocast)
def without_autocast_of_device(self, x):
    with torch.amp.autocast(x.device.type, enabled=False):
        return self.layer(x)


@written("nullcontext", layer, ranks=BOTH)
def nullcontext(self, x):
    with contextlib.nullcontext():
        return self.layer(x)


@written("suppress", layer, ranks=BOTH)
def suppress(self, x):
    with contextlib.suppress(KeyError):
        x = self.layer(x)
        x = x * {}["missing"]
    return x


@written("a context of its own", layer, ranks=BOTH)
def own_context(self, x):
    times = []
    with timed(times):
        x = self.layer(x)
    return x / (1 + len(times))


@written("record_function", layer, ranks=BOTH)
def recorded(self, x):
    with torch.profiler.record_function("layer"):
        return self.layer(x)


@written("warnings", layer, ranks=BOTH)
def warned(self, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.warn("nothing", stacklevel=2)
        return self.layer(x)


@written("checkpoint", layer, ranks=BOTH, legal=False)
def checkpointed(self, x):
    return checkpoint(self.layer, x, use_reentrant=False)


@written("fork_rng", layer, ranks=BOTH, legal=False)
def forked(self, x):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        noise = torch.rand(6)
    return self.layer(x) + noise


@written("autograd.graph.saved_tensors_hooks", layer, ranks=BOTH, legal=False)
def saved(self, x):
    with torch.autograd.graph.save_on_cpu():
        return self.layer(x).tanh()


@written("flop counting under no_grad", layer, ranks=BOTH)
def statistics(self, x):
    with torch.no_grad():
        x.detach().norm()
    return self.layer(x)
