"""Forwards that read numbers, tensors and layers from lists, objects, closures, globals: what may change later."""

import argparse
import collections
import dataclasses
import enum
import functools
import itertools
import types

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from module_pieces.registry import BOTH, change, piece

GAIN = 0.5
SETTINGS = {"gain": 0.5, "nested": {"slope": 0.2}}
SHIFT = torch.tensor([0.5])


class Box:
    """An object with a number."""

    gain = 0.5


class Schedule:
    """An object that computes a number."""

    def __init__(self):
        self.step, self.factor = 2, 0.25

    def value(self):
        return self.step * self.factor


@dataclasses.dataclass
class Options:
    gain: float = 0.5
    slopes: list = dataclasses.field(default_factory=lambda: [0.1, 0.2])


class Mode(enum.Enum):
    HALF = 0.5
    MORE = 1.5


class Scales(nn.Module):
    """Multiplies by a number that ``gain`` reads."""

    def gain(self):
        raise NotImplementedError

    def forward(self, x):
        return x * self.gain()


@piece("a number as an attribute", ranks=BOTH)
class OfAttribute(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.number = 0.5

    def gain(self):
        return self.number

    def mutate(self):
        return change(self, "number")


@piece("a number in a list", ranks=BOTH)
class OfList(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.gains = [2.0, 0.5]

    def gain(self):
        return self.gains[-1]

    def mutate(self):
        return change(self.gains, -1)


@piece("numbers in a tuple", ranks=BOTH)
class OfTuple(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.gains = (0.4, (0.1, 0.2))

    def gain(self):
        first, (second, third) = self.gains
        return first + second + third

    def mutate(self):
        before, self.gains = self.gains, (1.4, (0.1, 0.2))
        return lambda: setattr(self, "gains", before)


@piece("a number in a dict", ranks=BOTH)
class OfDict(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.config = {"scale": {"value": 0.5}, "name": "dict"}

    def gain(self):
        return self.config["scale"]["value"]

    def mutate(self):
        return change(self.config["scale"], "value")


@piece("a number in a defaultdict", ranks=BOTH)
class OfDefaultDict(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.config = collections.defaultdict(lambda: 0.5, other=1.0)

    def gain(self):
        return self.config["gain"]

    def mutate(self):
        return change(self.config, "gain")


@piece("a number in a deque", ranks=BOTH)
class OfDeque(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.gains = collections.deque([0.5, 0.6], maxlen=4)

    def gain(self):
        return self.gains[0]

    def mutate(self):
        self.gains.appendleft(1.5)
        return self.gains.popleft


@piece("a number in an argparse.Namespace", ranks=BOTH)
class OfNamespace(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.args = argparse.Namespace(gain=0.5, slopes=[0.1, 0.2])

    def gain(self):
        return self.args.gain

    def mutate(self):
        return change(self.args, "gain")


@piece("a list in an argparse.Namespace", ranks=BOTH)
class OfListInNamespace(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.args = argparse.Namespace(gains=[0.1, 0.5])

    def gain(self):
        return max(self.args.gains)

    def mutate(self):
        return change(self.args.gains, 1)


@piece("a number in a SimpleNamespace", ranks=BOTH)
class OfSimpleNamespace(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.cfg = types.SimpleNamespace(model=types.SimpleNamespace(gain=0.5))

    def gain(self):
        return self.cfg.model.gain

    def mutate(self):
        return change(self.cfg.model, "gain")


@piece("a number in a dataclass", ranks=BOTH)
class OfDataclass(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.options = Options()

    def gain(self):
        return self.options.gain + self.options.slopes[0]

    def mutate(self):
        return change(self.options.slopes, 0, 20.0)


@piece("a number of an object", ranks=BOTH)
class OfObject(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.box = Box()

    def gain(self):
        return self.box.gain

    def mutate(self):
        return change(self.box, "gain")


@piece("a number that an object computes", ranks=BOTH)
class OfSchedule(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.schedule = Schedule()

    def gain(self):
        return self.schedule.value()

    def mutate(self):
        return change(self.schedule, "step", 3)


@piece("a number of its class", ranks=BOTH)
class OfClass(Scales):
    number = 0.5

    def __init__(self, choose, shape):
        super().__init__()

    def gain(self):
        return self.number

    def mutate(self):
        return change(OfClass, "number")


@piece("a property", ranks=BOTH)
class OfProperty(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.levels = [1, 2]

    @property
    def level(self):
        return self.levels[0] / 2

    def gain(self):
        return self.level

    def mutate(self):
        return change(self.levels, 0, 3)


@piece("a global number", ranks=BOTH)
class OfGlobal(Scales):
    def __init__(self, choose, shape):
        super().__init__()

    def gain(self):
        return GAIN

    def mutate(self):
        global GAIN
        GAIN *= 3.0

        def undo():
            global GAIN
            GAIN /= 3.0

        return undo


@piece("a global dict", ranks=BOTH)
class OfGlobalDict(Scales):
    def __init__(self, choose, shape):
        super().__init__()

    def gain(self):
        return SETTINGS["gain"] + SETTINGS["nested"]["slope"]

    def mutate(self):
        return change(SETTINGS["nested"], "slope", 5.0)


@piece("a global that chooses a function", ranks=BOTH)
class OfGlobalName(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()

    def forward(self, x):
        return getattr(F, SETTINGS.get("activation", "relu"))(x)

    def mutate(self):
        SETTINGS["activation"] = "mish"
        return lambda: SETTINGS.pop("activation")


@piece("a closure over a number", ranks=BOTH)
class OfClosure(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        number = 0.5

        def scaled(x):
            return x * number

        def put(value):
            nonlocal number
            before, number = number, value
            return before

        self.function, self.put = scaled, put

    def forward(self, x):
        return self.function(x)

    def mutate(self):
        before = self.put(1.5)
        return lambda: self.put(before)


@piece("a closure over a list", ranks=BOTH)
class OfClosureOverList(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        numbers = [0.5]
        self.function = lambda x: x * numbers[0]
        self.__dict__["mutate"] = lambda: change(numbers, 0)

    def forward(self, x):
        return self.function(x)


@piece("a functools.partial", ranks=BOTH)
class OfPartial(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.act = functools.partial(F.leaky_relu, negative_slope=0.1)

    def forward(self, x):
        return self.act(x)

    def mutate(self):
        before, self.act = self.act, functools.partial(F.leaky_relu, negative_slope=1.7)
        return lambda: setattr(self, "act", before)


@piece("a default argument", ranks=BOTH)
class OfDefault(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.options = {"gain": 0.5}
        self.function = lambda x, options=self.options: x * options["gain"]

    def forward(self, x):
        return self.function(x)

    def mutate(self):
        return change(self.options, "gain")


@piece("a choice among functions", ranks=BOTH)
class OfFunctions(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.functions = {"relu": F.relu, "double": lambda x: 2 * x}
        self.choice = ["relu"]

    def forward(self, x):
        return self.functions[self.choice[0]](x)

    def mutate(self):
        self.choice[0] = "double"
        return lambda: self.choice.__setitem__(0, "relu")


@piece("an Enum", ranks=BOTH)
class OfEnum(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.mode = Mode.HALF

    def gain(self):
        return self.mode.value

    def mutate(self):
        self.mode = Mode.MORE
        return lambda: setattr(self, "mode", Mode.HALF)


@piece("a set and a flag", ranks=BOTH)
class OfSet(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.enabled = {"scale"}

    def forward(self, x):
        return x * 0.5 if "scale" in self.enabled else x * 1.5

    def mutate(self):
        self.enabled.discard("scale")
        return lambda: self.enabled.add("scale")


@piece("a NumPy scalar", ranks=BOTH)
class OfNumpy(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.table = np.array([0.25, 0.5], dtype=np.float32)

    def gain(self):
        return float(self.table[1])

    def mutate(self):
        self.table[1] *= 3
        return lambda: self.table.__setitem__(1, np.float32(0.5))


@piece("an iterator over numbers kept as a list", ranks=BOTH)
class OfItertools(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.gains = [0.5, 0.25]

    def forward(self, x):
        return sum(x * gain for gain in itertools.chain(self.gains))

    def mutate(self):
        self.gains.append(1.5)
        return self.gains.pop


@piece("the length of a list", ranks=BOTH)
class OfLength(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.history = [1, 2]

    def gain(self):
        return len(self.history) / 4

    def mutate(self):
        self.history.extend([0] * 6)
        return lambda: self.history.__delitem__(slice(2, None))


def shift(shape):
    """Return a tensor to add to a batch of inputs of this shape."""
    return torch.rand(shape[0], *[1] * (len(shape) - 1)) - 0.5


def _multiplied(tensor):
    tensor.mul_(3.0)
    return lambda: tensor.div_(3.0)


@piece("a tensor as an attribute", ranks=BOTH)
class TensorOfAttribute(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.shift = shift(shape)

    def forward(self, x):
        return x * self.shift

    def mutate(self):
        return _multiplied(self.shift)


@piece("a tensor in a list", ranks=BOTH)
class TensorInList(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.shifts = [shift(shape), shift(shape)]

    def forward(self, x):
        return x * self.shifts[0] + self.shifts[1]

    def mutate(self):
        return _multiplied(self.shifts[0])


@piece("a tensor in a dict", ranks=BOTH)
class TensorInDict(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.tensors = {"scale": shift(shape)}

    def forward(self, x):
        return x * self.tensors["scale"]

    def mutate(self):
        before, self.tensors["scale"] = self.tensors["scale"], self.tensors["scale"] * 3 + 1
        return lambda: self.tensors.__setitem__("scale", before)


@piece("a tensor in an argparse.Namespace", ranks=BOTH)
class TensorInNamespace(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.args = argparse.Namespace(scale=shift(shape), gain=2.0)

    def forward(self, x):
        return x * self.args.scale * self.args.gain

    def mutate(self):
        return _multiplied(self.args.scale)


@piece("a closure over a tensor", ranks=BOTH)
class TensorInClosure(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        scale = shift(shape)
        self.function = lambda x: x * scale
        self.__dict__["mutate"] = lambda: _multiplied(scale)

    def forward(self, x):
        return self.function(x)


@piece("a global tensor", ranks=BOTH)
class TensorInGlobal(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()

    def forward(self, x):
        return x * SHIFT

    def mutate(self):
        return _multiplied(SHIFT)


@piece("a number read from a buffer", ranks=BOTH, legal=False)
class ItemOfBuffer(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.register_buffer("temperature", torch.tensor(2.0))

    def gain(self):
        return 1 / self.temperature.item()

    def mutate(self):
        self.temperature.mul_(0.2)
        return lambda: self.temperature.fill_(2.0)


@piece("a decision by a buffer", ranks=BOTH, legal=False)
class DecisionByBuffer(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.register_buffer("flag", torch.tensor(True))

    def forward(self, x):
        return x * 0.5 if self.flag else x * 2.0

    def mutate(self):
        self.flag.fill_(False)
        return lambda: self.flag.fill_(True)


@piece("a number read from a plain tensor", ranks=BOTH, legal=False)
class ItemOfTensor(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.levels = torch.tensor([0.25, 0.5])

    def gain(self):
        return float(self.levels[1])

    def mutate(self):
        return _multiplied(self.levels)


@piece("NumPy weights", ranks=BOTH, legal=False)
class NumpyWeights(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.weights = shift(shape).numpy()

    def forward(self, x):
        return x * torch.from_numpy(self.weights)

    def mutate(self):
        return _multiplied(torch.from_numpy(self.weights))


@piece("layers in a plain list", ranks=BOTH, legal=False)
class PlainList(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        self.layers = [nn.Linear(shape[-1], 6), nn.Linear(6, 6)]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x

    def mutate(self):
        return _multiplied(self.layers[1].weight.data)


@piece("a layer in a closure", ranks=BOTH, legal=False)
class LayerInClosure(nn.Module):
    def __init__(self, choose, shape):
        super().__init__()
        layer = nn.Linear(shape[-1], 6)
        self.function = lambda x: layer(x)
        self.__dict__["mutate"] = lambda: _multiplied(layer.weight.data)

    def forward(self, x):
        return self.function(x)


@piece("an iterator that runs out", ranks=BOTH, legal=False)
class OfGenerator(Scales):
    def __init__(self, choose, shape):
        super().__init__()
        self.gains = itertools.count(1)

    def gain(self):
        return 1.0 / next(self.gains)


@piece("a function that reads a global class", ranks=BOTH)
class OfGlobals(Scales):
    def __init__(self, choose, shape):
        super().__init__()

    def gain(self):
        return _from_elsewhere() * 2

    def mutate(self):
        return change(Box, "gain")


def _from_elsewhere():
    return Box.gain / 2
