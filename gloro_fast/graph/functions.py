"""What is known of the operations of ATen that a ``forward`` comes to, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError
from gloro_fast.graph import arithmetic, reductions, views, weighted
from gloro_fast.graph.call import Call, Number, Operand, flat
from gloro_fast.graph.node import Diagonals, Fixed, Layer, Node, Sloped, Times, constants
from gloro_fast.graph.operations import Function, Slot
from gloro_fast.graph.watcher import Whole
from gloro_fast.rules.functions import registered_function
from gloro_fast.rules.registry import Diagonal, LipschitzConstant

_OfOne = Callable[[Call], Node]
_OfSeveral = Callable[[Call, list[Node]], Node]

# Keys are names of operations, whether in place or not, with the overload where it matters.
_ONE_TENSOR: dict[str, _OfOne] = {
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze", "unflatten"), views.reshape),
    **dict.fromkeys(("clone", "contiguous", "detach", "alias", "positive"), views.one),
    **dict.fromkeys(("to", "_to_copy", "type_as"), views.wider),
    "transpose": views.swap,
    "t": views.transpose_matrix,
    "permute": views.permute,
    **dict.fromkeys(("flip", "roll", "chunk", "split", "split_with_sizes", "unbind", "select"), views.along_dims),
    "slice": views.cut,
    **dict.fromkeys(("expand", "repeat"), views.repeat),
    **dict.fromkeys(("pad", "constant_pad_nd"), views.pad),
    **dict.fromkeys(("im2col", "unfold"), views.windows),
    "getitem": views.part,
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), views.dropout),
    **dict.fromkeys(
        (
            "mean",
            "sum",
            "amax",
            "amin",
            "max.dim",
            "min.dim",
            "max.default",
            "min.default",
            "logsumexp",
            "linalg_vector_norm",
        ),
        reductions.reduce,
    ),
}
_SEVERAL_TENSORS: dict[str, _OfSeveral] = {
    **dict.fromkeys(("add", "sub", "rsub"), arithmetic.add),
    "mul": arithmetic.multiply,
    "div": arithmetic.divide,
    "addcmul": arithmetic.add_product,
    **dict.fromkeys(("maximum", "minimum", "max.other", "min.other"), arithmetic.extreme),
    **dict.fromkeys(("cat", "stack"), arithmetic.concatenate),
    "linear": weighted.linear,
    **dict.fromkeys(("matmul", "mm"), weighted.matrix_product),
    "addmm": weighted.affine_product,
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), weighted.convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), weighted.transposed_convolution),
    "batch_norm": weighted.batch_norm,
}
# Slopes are at most 1.
_ONES = ("abs", "sin", "cos", "clamp", "clamp_min", "clamp_max")
# Operations that compute what a layer of PyTorch computes. Its constructor takes the arguments of the same name, but
# ``dtype`` and a ``stride`` of [], which stands for the size of the kernel.
_LAYERS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "leaky_relu": nn.LeakyReLU,
    "selu": nn.SELU,
    "celu": nn.CELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "softplus": nn.Softplus,
    "softshrink": nn.Softshrink,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "log_sigmoid": nn.LogSigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "hardswish": nn.Hardswish,
    "softmax.int": nn.Softmax,
    "log_softmax.int": nn.LogSoftmax,
    "pixel_shuffle": nn.PixelShuffle,
    "pixel_unshuffle": nn.PixelUnshuffle,
    "channel_shuffle": nn.ChannelShuffle,
    **{
        f"{operation}{axes}d": getattr(nn, f"{layer}{axes}d")
        for axes in (1, 2, 3)
        for operation, layer in (
            ("max_pool", "MaxPool"),
            ("avg_pool", "AvgPool"),
            ("adaptive_max_pool", "AdaptiveMaxPool"),
            ("adaptive_avg_pool", "AdaptiveAvgPool"),
        )
    },
}
_UPSAMPLING = {"upsample_nearest": "nearest", "_upsample_nearest_exact": "nearest-exact"}
_LIKE = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
# Where the number of images is among their sizes, each image gets the same.
_THE_SAME_FOR_ALL_IMAGES = ("zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "expand")
# What may be done with such a constant: nothing along its images.
_ELEMENTWISE = ("add", "sub", "mul", "div", "neg", "to", "_to_copy", "clone", "detach", *_LIKE)
_UNSOUND_ON_PARAMETERS = (
    torch.Tag.nondeterministic_seeded, torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape
)  # fmt: skip


def is_known(call: Call) -> bool:
    """Return whether something is known of the operation, so that it need not be decomposed."""
    name = call.packet
    return (
        any(key in table for table in (_ONE_TENSOR, _SEVERAL_TENSORS, _LAYERS) for key in (name, _with_overload(call)))
        or name in (*_ONES, *_LIKE, "neg", "elu", "prelu")
        or name.startswith(tuple(_UPSAMPLING))
        or call.is_explained
    )


def is_constant(call: Call) -> bool:
    """Return whether an operation takes no more of a tensor of the network than its shape and type."""
    return call.packet in _LIKE


def node_of(call: Call, nodes: list[Node]) -> Node:
    """Make the node of a call on a tensor of the network.

    Raises:
        UnknownLayerError, ArchitectureError: its constant is unknown with these arguments, or it mixes images.
    """
    for name in (_with_overload(call), call.packet):
        if name in _ONE_TENSOR:
            return _ONE_TENSOR[name](call)
        if name in _SEVERAL_TENSORS:
            return _SEVERAL_TENSORS[name](call, nodes)
        if name in _LAYERS:
            return _by_layer(call, _LAYERS[name])
    if call.packet in _ONES:
        # A bound of more dimensions than the images would repeat them.
        bounds = [value for value in list(call.given.values())[1:] if isinstance(value, Operand)]
        if call.shape != call.input.shape or not all(value.constant for value in bounds):
            raise call.unknown()
        return call.node(Fixed(call.where, LipschitzConstant(1.0, per_element=True)))
    if call.packet == "neg":
        return call.node(Times(call.where, -1.0))
    if call.packet == "prelu" and call.given["weight"].constant:
        return call.node(Sloped(call.where, constants(nodes, call.given["weight"].index)))
    if call.packet == "elu" and (call.given["scale"], call.given["input_scale"]) == (1, 1):
        return _layer(call, nn.ELU(call.given["alpha"]))
    for name, mode in _UPSAMPLING.items():
        if call.packet.startswith(name) and "scale_factors" in call.given:
            size, factor = call.given["output_size"], call.given["scale_factors"]
            return _layer(call, nn.Upsample(_tuple(size), _tuple(factor), mode))
    raise call.unknown()


def node_of_whole(where: str, whole: Whole, x: Operand, shape: tuple[int, ...]) -> Node:
    """Make the node of a function with a registered rule.

    Raises:
        UnknownLayerError, ConfigError: the rule does not take the arguments, or gives something else than it should.
    """
    rule = registered_function(whole.called)
    assert rule is not None
    unknown = Call(where, torch.ops.gloro_fast.whole.default, {}, None, False, (), Function(whole.called)).unknown()
    if any(not _is_plain(value) for value in (*whole.args, *(value for _, value in whole.keywords))):
        raise unknown
    try:
        known = rule(x.shape, *whole.args, **dict(whole.keywords))
    except TypeError:
        raise unknown from None
    if isinstance(known, nn.Module):
        # What the rule says is known is what is executed.
        layer = Layer(where, known.eval(), x.shape, x.value.dtype)
        layer.rule()
        return Node(where, layer.module, (x.index,), layer, shape, whole.overwrites, whole.shares)
    if not isinstance(known, LipschitzConstant | Diagonal):
        raise ConfigError(f"the rule of {where} gave {known!r}; see register_lipschitz_function")
    operation = Function(whole.called, (Slot(0), *whole.args), whole.keywords)
    transfer = Fixed(where, known) if isinstance(known, LipschitzConstant) else Diagonals(where, known)
    return Node(where, operation, (x.index,), transfer, shape, whole.overwrites, whole.shares)


def constant_node(call: Call) -> Node:
    """Make the node of a call on parameters alone: whatever it computes, it computes it anew each time.

    Raises:
        UnknownLayerError, ArchitectureError: it draws random numbers, or depends on the number of images.
    """
    if set(_UNSOUND_ON_PARAMETERS) & set(getattr(call.operation, "tags", ())):
        raise call.unknown()
    values = flat(list(call.given.values()))
    numbers = [value for value in values if isinstance(value, Number)]
    if not all(_is_plain(value) or isinstance(value, Operand | Number) for value in values):
        raise call.unknown()
    if numbers and call.packet not in _THE_SAME_FOR_ALL_IMAGES:
        raise call.mixes()
    if any(isinstance(value, Operand) and value.is_of_images for value in values) and call.packet not in _ELEMENTWISE:
        raise call.mixes()
    shape = tuple(call.output.shape) if isinstance(call.output, Tensor) else ()
    return Node(call.where, call.function, call.inputs, shape=shape)


def _by_layer(call: Call, kind: type[nn.Module]) -> Node:
    settings: dict[str, Any] = {}
    for name, value in list(call.given.items())[1:]:
        if name == "dtype":
            if value is not None and value != call.input.value.dtype:
                raise call.unknown()
        elif not (name == "stride" and value == []):
            settings[name] = _tuple(value)
    return _layer(call, kind(**settings))


def _layer(call: Call, layer: nn.Module) -> Node:
    transfer = Layer(call.where, layer.eval(), call.input.shape, call.input.value.dtype)
    transfer.rule()
    return call.of_one(transfer)


def _with_overload(call: Call) -> str:
    return f"{call.packet}.{getattr(call.operation, '_overloadname', '')}"


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_plain(value: Any) -> bool:
    return all(
        part is None
        or isinstance(part, bool | int | float | str | torch.dtype | torch.device | torch.layout | torch.memory_format)
        for part in flat(value)
    )
