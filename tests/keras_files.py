"""Files as Keras writes them, and the nets in them computed by hand in NumPy, channels last."""

import json

import numpy as np

from gloro_fast.models.architectures import ARCHITECTURES


def random_weights(architecture, input_shape, classes, seed=0):
    """(kernel, bias) of every layer in Keras's layout, with the stride of convolutions (None for dense layers)."""
    generator = np.random.default_rng(seed)
    net = ARCHITECTURES[architecture]
    channels, height, width = input_shape
    layers = []

    def add(shape, stride):
        fan_in = np.prod(shape[:-1])
        kernel = generator.normal(0, fan_in**-0.5, shape).astype(np.float32)
        layers.append((kernel, generator.normal(0, 0.1, shape[-1]).astype(np.float32), stride))

    for out, side, stride in net.convolutions:
        add((side, side, channels, out), stride)
        channels, height, width = out, -(-height // stride), -(-width // stride)
    features = channels * height * width
    for units in (*net.dense, classes):
        add((features, units), None)
        features = units
    return layers


def by_hand(layers, images, activation):
    """Logits of images (B, H, W, C) in float64: SAME padding, an activation after every layer but the last."""
    x = images.astype(np.float64)
    for place, (kernel, bias, stride) in enumerate(layers):
        if stride is None:
            x = x.reshape(len(x), -1) @ kernel + bias
        else:
            x = convolved(x, kernel.astype(np.float64), stride) + bias
        if place < len(layers) - 1:
            x = minmax(x) if activation == "minmax" else np.maximum(x, 0)
    return x


def convolved(x, kernel, stride):
    side, _, _, out = kernel.shape
    counts, pads = [], []
    for size in x.shape[1:3]:
        count = -(-size // stride)
        total = max(0, (count - 1) * stride + side - size)
        counts.append(count)
        pads.append((total // 2, total - total // 2))
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    y = np.zeros((len(x), *counts, out))
    for i in range(counts[0]):
        for j in range(counts[1]):
            window = x[:, i * stride : i * stride + side, j * stride : j * stride + side]
            y[:, i, j] = np.einsum("bhwc,hwco->bo", window, kernel)
    return y


def minmax(x):
    pairs = x.reshape(len(x), -1, 2)
    return np.stack([pairs.min(-1), pairs.max(-1)], -1).reshape(x.shape)


def names_of(layers):
    counts = {"conv2d": 0, "dense": 0}
    for _, _, stride in layers:
        kind = "dense" if stride is None else "conv2d"
        yield f"{kind}_{counts[kind]}" if counts[kind] else kind
        counts[kind] += 1


def write_weights(group, layers, *, without_bias=(), chunks=False):
    """Write what save_weights writes; ``chunks`` cuts the list of layers into several attributes, as Keras may."""
    names = [name.encode() for name in names_of(layers)]
    if chunks:
        for number, start in enumerate(range(0, len(names), 3)):
            group.attrs[f"layer_names{number}"] = names[start : start + 3]
    else:
        group.attrs["layer_names"] = [b"input_1", *names]
        group.create_group("input_1").attrs["weight_names"] = np.array([], dtype="S1")
    group.attrs["backend"] = b"tensorflow"
    for name, (kernel, bias, _) in zip(names_of(layers), layers, strict=True):
        weights = {"kernel:0": kernel} if name in without_bias else {"kernel:0": kernel, "bias:0": bias}
        inner = group.create_group(name)
        inner.attrs["weight_names"] = [f"{name}/{weight}".encode() for weight in weights]
        for weight, value in weights.items():
            inner.create_dataset(f"{name}/{weight}", data=value)


def model_config(layers, input_shape, activation, **changes):
    """The configuration that model.save writes; ``changes`` go into every convolution."""
    channels, height, width = input_shape
    found = [
        {
            "class_name": "InputLayer",
            "config": {"name": "input_1", "batch_input_shape": [None, height, width, channels]},
        }
    ]
    for place, (name, (kernel, _, stride)) in enumerate(zip(names_of(layers), layers, strict=True)):
        if stride is None:
            if kernel.ndim == 2 and layers[place - 1][2] is not None:
                found.append({"class_name": "Flatten", "config": {"name": "flatten", "data_format": "channels_last"}})
            found.append({"class_name": "Dense", "config": {"name": name, "activation": "linear"}})
        else:
            settings = {"strides": [stride, stride], "padding": "same", "dilation_rate": [1, 1], **changes}
            found.append({"class_name": "Conv2D", "config": {"name": name, "activation": "linear", **settings}})
        if place < len(layers) - 1:
            name = f"activation_{place}"
            if activation == "minmax":
                found.append({"class_name": "gloro>MinMax", "config": {"name": name, "absolute_value": False}})
            else:
                found.append({"class_name": "Activation", "config": {"name": name, "activation": activation}})
    return json.dumps({"class_name": "Functional", "config": {"name": "model", "layers": found}})
