"""The arithmetic of an executed pass: each output a sum of its products in some order, and no other way."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from gloro_fast.errors import ConfigError
from gloro_fast.graph.node import Layer, Node, Weighted
from gloro_fast.graph.plan import Plan
from gloro_fast.graph.strictly import Strictly
from gloro_fast.ops.strict import SUMS

_LOWER_PRECISION = ("tf32", "bf16")
_ONEDNN_MODES = ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE")
_EMULATION = "CUBLAS_EMULATE_DOUBLE_PRECISION"


def sums_of_products(plan: Plan, device: torch.device) -> AbstractContextManager[Any]:
    """Return the context in which a pass adds products, whatever the settings of the process are.

    What runs where (PyTorch 2.13): on the CPU, matrix products are MKL's, OpenBLAS's or, by ``gloro_fast.ops.dense``,
    oneDNN's, which all add products; convolutions are oneDNN's, which PyTorch asks for ``convolution_direct`` and never
    for Winograd (ONEDNN_VERBOSE shows it), or, for small ones, a matrix product. So nothing is to be done there as
    PyTorch comes. Without oneDNN they would be NNPACK's, by Winograd or FFT, on ARM depthwise ones of 3 x 3 are
    PyTorch's own Winograd, and oneDNN may be allowed fewer bits: then linear layers are computed in float64, which has
    none of these, and rounded to float32. On a GPU they always are, without cuDNN, which may choose Winograd or FFT for
    any convolution: cuBLAS takes TF32 for float32 alone. With gamma_n = n u / (1 - n u) of float32, a sum of n products
    and a bias that is added in float64 and rounded once is off by less than gamma_(n+1) times the sum of magnitudes;
    so it is where the bias is added later, with another rounding.

    Args:
        plan: the network.
        device: where it runs.

    Raises:
        ConfigError: names the setting and how to change it.
    """
    if device.type == "cuda":
        if os.environ.get(_EMULATION, "0") != "0":
            raise _refusal(f"{_EMULATION} is {os.environ[_EMULATION]}", f"set {_EMULATION}=0")
        return SUMS
    if device.type != "cpu":
        raise ConfigError(
            f"executed certificates hold on cpu and cuda, but the net is on {device.type}; move it to the CPU"
        )
    reason, remedy = _other_on_cpu([node for node in plan.nodes if _convolves(node)])
    if not reason:
        return nullcontext()
    # Weights that are computed anew would not be those that were bounded under the same settings.
    if any(isinstance(step, Strictly) and not step.known for step, *_ in plan.strict.steps):
        raise _refusal(reason, remedy)
    return SUMS


def _other_on_cpu(convolutions: list[Node]) -> tuple[str, str]:
    """Name what lets a backend compute float32 in another way, and what keeps it from that; empty if nothing does."""
    for mode in _ONEDNN_MODES:
        if os.environ.get(mode, "STRICT").upper() != "STRICT":
            return f"{mode} is {os.environ[mode]}", f"set {mode}=STRICT"
    for operation in ("matmul", "conv"):
        precision = getattr(torch.backends.mkldnn, operation).fp32_precision
        if precision in _LOWER_PRECISION:
            return f"oneDNN may use {precision}", f"set torch.backends.mkldnn.{operation}.fp32_precision = 'ieee'"
    if not convolutions:
        return "", ""
    onednn = torch._C._has_mkldnn and torch.backends.mkldnn.enabled
    if not onednn and torch._C._get_nnpack_enabled():
        return "oneDNN is off and NNPACK may use Winograd or FFT", "set torch.backends.nnpack.set_flags(False)"
    if any(_is_depthwise(node) for node in convolutions) and platform.machine().lower() not in ("x86_64", "amd64"):
        return (
            f"PyTorch computes depthwise convolutions by Winograd on {platform.machine()}",
            "certify without executed",
        )
    return "", ""


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


def _refusal(reason: str, remedy: str) -> ConfigError:
    return ConfigError(f"{reason}, which an executed certificate does not cover; {remedy}")
