"""Layers of PyTorch that have no rule, and why: what to do about each, as the end of an error message."""

from __future__ import annotations

from torch import nn

_ROW_STATISTICS = (
    "whose slope grows without limit as its input becomes constant (only its eps limits it); "
    "replace it by BatchNorm, or by nothing"
)
_PRODUCTS = (
    "which multiplies its inputs by each other and has no Lipschitz constant; replace it by convolutions or dense "
    "layers"
)
_JUMPS = "which jumps and so has no Lipschitz constant; replace it by ReLU or MinMax"
_GATED = "which multiplies its inputs by each other and has no Lipschitz constant; replace it by MinMax"

_WRAPPERS = "which spreads a batch over devices; pass the module that it wraps, and wrap the GloRoNet"

REMEDIES: dict[type[nn.Module], str] = {
    nn.DataParallel: _WRAPPERS,
    nn.parallel.DistributedDataParallel: _WRAPPERS,
    nn.LayerNorm: _ROW_STATISTICS,
    nn.GroupNorm: _ROW_STATISTICS,
    nn.RMSNorm: _ROW_STATISTICS,
    nn.InstanceNorm1d: _ROW_STATISTICS,
    nn.InstanceNorm2d: _ROW_STATISTICS,
    nn.InstanceNorm3d: _ROW_STATISTICS,
    nn.LocalResponseNorm: "whose Lipschitz constant is unknown; replace it by BatchNorm, or by nothing",
    nn.MultiheadAttention: _PRODUCTS,
    nn.TransformerEncoderLayer: _PRODUCTS,
    nn.TransformerDecoderLayer: _PRODUCTS,
    nn.TransformerEncoder: _PRODUCTS,
    nn.TransformerDecoder: _PRODUCTS,
    nn.Transformer: _PRODUCTS,
    nn.RNN: _PRODUCTS,
    nn.LSTM: _PRODUCTS,
    nn.GRU: _PRODUCTS,
    nn.Bilinear: _GATED,
    nn.GLU: _GATED,
    nn.Hardshrink: _JUMPS,
    nn.Threshold: _JUMPS,
    nn.RReLU: "which is random in training; replace it by LeakyReLU",
    nn.UpsamplingBilinear2d: "which has no rule; replace it by Upsample(mode='nearest')",
}
"""For each type, the rest of a sentence that begins with "features.3 is a LayerNorm, "."""
