"""The settings under which a layer is executed as sums of products, each output in some order and no other way."""

from __future__ import annotations

import os
import platform

import torch
from torch import nn

from gloro_fast.errors import ConfigError
from gloro_fast.graph.node import Layer, Node, Weighted
from gloro_fast.plan import Plan

_LOWER_PRECISION = ("tf32", "bf16")
_ONEDNN_MODES = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")


def check_settings(plan: Plan, device: torch.device) -> None:
    """Refuse settings that let a backend compute a float32 layer by Winograd, FFT, or in fewer bits.

    What runs where (PyTorch 2.13): on the CPU, matrix products are MKL's, OpenBLAS's or, by ``gloro_fast.ops.dense``,
    oneDNN's, which all add products; convolutions are oneDNN's, which PyTorch asks for ``convolution_direct`` and never
    for Winograd (ONEDNN_VERBOSE shows it), or, for small ones, a matrix product. Without oneDNN they would be NNPACK's,
    by Winograd or FFT, and on ARM depthwise ones of 3 x 3 are PyTorch's own Winograd. cuDNN may choose Winograd or FFT
    for any convolution. TF32 and its like are off by default, but for cuDNN's convolutions.

    Args:
        plan: the network.
        device: where it runs.

    Raises:
        ConfigError: names the setting and how to change it.
    """
    convolutions = [node for node in plan.nodes if _convolves(node)]
    if device.type == "cpu":
        _check_cpu(convolutions)
    elif device.type == "cuda":
        if torch.backends.cuda.matmul.fp32_precision in _LOWER_PRECISION:
            raise _refusal("matrix products may use TF32", "torch.backends.cuda.matmul.fp32_precision = 'ieee'")
        if convolutions and torch.backends.cudnn.enabled:
            raise _refusal("cuDNN may choose Winograd or FFT", "torch.backends.cudnn.enabled = False")
    else:
        raise ConfigError(
            f"executed certificates hold on cpu and cuda, but the net is on {device.type}; move it to the CPU"
        )


def _check_cpu(convolutions: list[Node]) -> None:
    for mode in _ONEDNN_MODES:
        if os.environ.get(mode, "STRICT").upper() != "STRICT":
            raise _refusal(f"{mode} is {os.environ[mode]}", f"{mode}=STRICT")
    for operation in ("matmul", "conv"):
        precision = getattr(torch.backends.mkldnn, operation).fp32_precision
        if precision in _LOWER_PRECISION:
            raise _refusal(f"oneDNN may use {precision}", f"torch.backends.mkldnn.{operation}.fp32_precision = 'ieee'")
    if not convolutions:
        return
    onednn = torch._C._has_mkldnn and torch.backends.mkldnn.enabled
    if not onednn and torch._C._get_nnpack_enabled():
        raise _refusal("oneDNN is off and NNPACK may use Winograd or FFT", "torch.backends.nnpack.set_flags(False)")
    if any(_is_depthwise(node) for node in convolutions) and platform.machine().lower() not in ("x86_64", "amd64"):
        raise ConfigError(
            f"PyTorch computes depthwise convolutions by Winograd on {platform.machine()}; certify without executed"
        )


def _convolves(node: Node) -> bool:
    transfer = node.transfer
    if isinstance(transfer, Layer):
        return any(isinstance(child, nn.modules.conv._ConvNd) for child in transfer.module.modules())
    return isinstance(transfer, Weighted) and not transfer.geometry.is_dense


def _is_depthwise(node: Node) -> bool:
    transfer = node.transfer
    if isinstance(transfer, Weighted):
        return transfer.geometry.groups > 1
    assert isinstance(transfer, Layer)
    layers = (child for child in transfer.module.modules() if isinstance(child, nn.modules.conv._ConvNd))
    return any(1 < layer.groups == layer.in_channels for layer in layers)


def _refusal(reason: str, setting: str) -> ConfigError:
    return ConfigError(f"{reason}, which an executed certificate does not cover; set {setting}")
