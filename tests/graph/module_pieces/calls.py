"""Ways to call layers and functions, to pass values along, and to put modules together."""

import collections
import functools
import logging
import operator

import torch
import torch.nn.functional as F
from torch import nn

from module_pieces.registry import BOTH, piece, written

Result = collections.namedtuple("Result", ["features", "skip"])
log = logging.getLogger(__name__)


def layer(self, choose, shape):
    self.layer, self.act = nn.Linear(shape[-1], shape[-1]), nn.ReLU()


def named(self, choose, shape):
    self.layer1, self.layer2 = nn.Linear(shape[-1], shape[-1]), nn.Linear(shape[-1], shape[-1])


@written("layer.forward(x)", layer, ranks=BOTH)
def called_by_forward(self, x):
    return self.act.forward(self.layer.forward(x))


@written("nn.Linear.forward(layer, x)", layer, ranks=BOTH)
def called_by_class(self, x):
    return nn.Linear.forward(self.layer, x) * 0.5


@written("layer(input=x)", layer, ranks=BOTH)
def by_keyword(self, x):
    return self.act(self.layer(input=x))


@written("getattr(self, name)", named, ranks=BOTH)
def by_name(self, x):
    for i in (1, 2):
        x = torch.tanh(getattr(self, f"layer{i}")(x))
    return x


@written("self._modules.values()", named, ranks=BOTH)
def over_modules(self, x):
    for module in self._modules.values():
        x = module(x)
    return x


@written("self.children()", named, ranks=BOTH)
def over_children(self, x):
    return functools.reduce(lambda value, child: F.relu(child(value)), self.children(), x)


@written("self.get_submodule", named, ranks=BOTH)
def by_path(self, x):
    return self.get_submodule("layer2")(x)


@written("functional_call", layer, ranks=BOTH, legal=False)
def functional_call(self, x):
    halves = {name: value / 2 for name, value in self.layer.named_parameters()}
    return torch.func.functional_call(self.layer, halves, (x,))


@written("torch.func.vmap", layer, ranks=BOTH, legal=False)
def mapped(self, x):
    return torch.func.vmap(self.layer)(x)


@written("a function within", layer, ranks=BOTH)
def inner_function(self, x):
    def block(value, depth):
        return block(self.act(self.layer(value)), depth - 1) if depth else value

    return block(x, 2)


@written("map and a lambda", layer, ranks=BOTH)
def mapped_by_python(self, x):
    return sum(map(lambda function: function(self.layer(x)), (torch.tanh, torch.sigmoid))) / 2  # noqa: C417


@written("operator.methodcaller", layer, ranks=BOTH)
def method(self, x):
    return operator.methodcaller("relu")(self.layer(x))


@written("walrus and conditional", layer, ranks=BOTH)
def walrus(self, x):
    return y * 0.5 if (y := self.layer(x)).shape == x.shape else -x


@written("logging and formatting", layer, ranks=BOTH)
def logged(self, x):
    log.debug("shape %s of %d images", tuple(x.shape), len(x))
    message = f"{x.shape[1]} channels in {x.dtype}"
    return self.layer(x) if message else x


@written("torch._assert", layer, ranks=BOTH)
def asserted(self, x):
    torch._assert(x.shape[-1] == self.layer.in_features, "wrong size")
    return self.layer(x)


@written("torch._check", layer, ranks=BOTH)
def checked(self, x):
    torch._check(x.shape[-1] == self.layer.in_features)
    return self.layer(x)


@written("operators as functions", layer, ranks=BOTH)
def operators(self, x):
    return operator.truediv(operator.add(x, self.layer(x)), 2.0)


@written("reversed operators", ranks=BOTH)
def reversed_operators(self, x):
    return 1.0 + 0.5 * (2.0 - x) + -x * 0.25


@written("True as a number", ranks=BOTH)
def boolean(self, x):
    return x * (x.ndim == 4 or x.ndim == 2) * 0.5


@written("a try and its finally", layer, ranks=BOTH)
def tried(self, x):
    try:
        x = self.layer(x)
    finally:
        done = True
    return x if done else -x


@written("keyword arguments of functions", ranks=BOTH)
def keywords(self, x):
    return torch.clamp(input=torch.mul(input=x, other=0.5), min=-1.0, max=1.0)


class Two(nn.Module):
    """Gives two tensors."""

    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, size)

    def forward(self, x, skip=None):
        y = self.layer(x)
        return y, (x if skip is None else skip + y)


class Named(nn.Module):
    """Gives a named tuple."""

    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, size)

    def forward(self, x):
        return Result(features=F.relu(self.layer(x)), skip=x)


class ByName(nn.Module):
    """Gives a dict."""

    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, size)

    def forward(self, x):
        return {"out": self.layer(x), "skip": x}


class Concatenating(nn.Module):
    """Takes a list of tensors, or one, as densenet's layers do."""

    def __init__(self, inputs):
        super().__init__()
        self.layer = nn.Linear(inputs, inputs)

    def forward(self, features):
        previous = [features] if isinstance(features, torch.Tensor) else features
        return self.layer(torch.cat(previous, dim=1)[:, :2])


@piece("modules that give tuples", ranks=BOTH)
class Tuples(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.first, self.second = Two(shape[-1]), Two(shape[-1])

    def forward(self, x):
        y, skip = self.second(*self.first(x))
        return (y + skip) / 2


@piece("a module that gives a named tuple", ranks=BOTH)
class NamedTuples(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.block = Named(shape[-1])

    def forward(self, x):
        result = self.block(x)
        return result.features + result.skip * 0.5


@piece("a module that gives a dict", ranks=BOTH)
class Dicts(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.block = ByName(shape[-1])

    def forward(self, x):
        return sum(self.block(x).values()) / 2


@piece("modules that take lists")
class Lists(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.blocks = nn.ModuleList([Concatenating(shape[-1]) for _ in range(2)])

    def forward(self, x):
        features = [x]
        for block in self.blocks:
            features.append(block(features))
        return torch.cat(features, 1) + F.pad(self.blocks[0](x), (0, 0, 0, 0, 0, features[0].shape[1] + 2)) / 4


@piece("a ModuleDict", ranks=BOTH)
class OfModuleDict(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.choices = nn.ModuleDict({"dense": nn.Linear(shape[-1], shape[-1]), "none": nn.Identity()})
        self.order = ["none", "dense"]

    def forward(self, x):
        for name in self.order:
            x = self.choices[name](x)
        return x

    def mutate(self):
        self.order[1] = "none"
        return lambda: self.order.__setitem__(1, "dense")


@piece("an optional layer", ranks=BOTH)
class Optional(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.layer = nn.Linear(shape[-1], shape[-1]) if choose.random() < 0.5 else None
        self.act = nn.Identity()

    def forward(self, x):
        if self.layer is not None:
            x = self.layer(x)
        return self.act(x)


@piece("arguments of all kinds", ranks=BOTH)
class Arguments(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.inner = Flexible(shape[-1])

    def forward(self, x, *unused, scale=0.5, **options):
        return self.inner(x, x, scale=scale, negative=options.get("negative", False))


class Flexible(nn.Module):
    """Takes tensors, and keywords."""

    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, size)

    def forward(self, *tensors, **options):
        total = sum(self.layer(tensor) for tensor in tensors) * options["scale"]
        return -total if options["negative"] else total


@piece("a forward of the class above", ranks=BOTH)
class Derived(Flexible):
    def __init__(self, choose, shape):
        super().__init__(shape[-1])

    def forward(self, x):
        return super().forward(x, scale=0.5, negative=True)


@piece("a forward set on the object", ranks=BOTH)
class Replaced(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.layer = nn.Linear(shape[-1], 6)

    def forward(self, x):
        return self.chosen(x)

    @property
    def chosen(self):
        return self._first

    def _first(self, x):
        return self.layer(x)


@piece("a module with a __call__ of its own", ranks=BOTH, legal=False)
class Calling(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.inner = OwnCall()

    def forward(self, x):
        return self.inner(x)


class OwnCall(nn.Module):
    """Multiplies what forward gives, outside of it."""

    def __call__(self, x):
        return super().__call__(x) * 3.0

    def forward(self, x):
        return x * 0.5


@piece("a layer with a forward hook", ranks=BOTH, legal=False)
def hooked(choose, shape):
    layer = nn.Linear(shape[-1], 6)
    layer.register_forward_hook(lambda module, inputs, output: output * 2.0)
    return layer


@piece("a hook on a gradient", ranks=BOTH, legal=False)
class GradientHook(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.layer = nn.Linear(shape[-1], 6)

    def forward(self, x):
        y = self.layer(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient.clamp(-1, 1))
        return y


@piece("a forward replaced on a layer", ranks=BOTH, legal=False)
def replaced_forward(choose, shape):
    layer = nn.Linear(shape[-1], 6)
    layer.forward = lambda x: F.linear(x, layer.weight * 2.0)
    return layer


@piece("the old spectral_norm", ranks=BOTH, legal=False)
def old_spectral_norm(choose, shape):
    return torch.nn.utils.spectral_norm(nn.Linear(shape[-1], 6))


@piece("a scripted function", ranks=BOTH, legal=False)
class Scripted(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(1))

    def forward(self, x):
        return _scripted(x) * self.weight


@torch.jit.script
def _scripted(x: torch.Tensor) -> torch.Tensor:
    return x.tanh() * 0.5


@piece("a tensor subclass", ranks=BOTH, legal=False)
class Wrapping(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()

    def forward(self, x):
        return torch.tanh(x.as_subclass(Wrapped)).as_subclass(torch.Tensor)


class Wrapped(torch.Tensor):
    """A tensor that doubles what is computed of it."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
        return result * 2 if func is torch.tanh else result
