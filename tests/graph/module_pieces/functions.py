"""Functions and methods of tensors that have a Lipschitz constant, called as people call them."""

import functools
import operator

import torch
import torch.nn.functional as F

from module_pieces.registry import BOTH, VECTORS, each

ANYWHERE = {
    "F.relu": F.relu,
    "x.relu()": lambda x: x.relu(),
    "torch.tanh": torch.tanh,
    "F.gelu": lambda x: F.gelu(x, approximate="tanh"),
    "F.leaky_relu": lambda x: F.leaky_relu(x, 0.1),
    "F.elu": lambda x: F.elu(x, alpha=0.5),
    "F.softplus": F.softplus,
    "F.silu": F.silu,
    "F.hardtanh": lambda x: F.hardtanh(x, -0.5, 2.0),
    "x.clamp": lambda x: x.clamp(-1, 1),
    "x.clamp_min": lambda x: x.clamp(min=0.1),
    "torch.abs": torch.abs,
    "torch.sin": torch.sin,
    "shifted and scaled": lambda x: 1 - (2 * x + 0.5) / 4,
    "x.mul and x.sub": lambda x: x.mul(0.5).sub(0.25),
    "torch.add with alpha": lambda x: torch.add(x, x.tanh(), alpha=0.7),
    "maximum": lambda x: torch.maximum(x, -0.5 * x),
    "minimum of a shifted copy": lambda x: torch.minimum(x, 0.5 - x),
    "concatenated ReLU": lambda x: torch.cat([F.relu(x), F.relu(-x)], dim=1),
    "chunks swapped": lambda x: torch.cat(x.chunk(2, dim=1)[::-1], dim=1),
    "split and added": lambda x: functools.reduce(operator.add, x.split(1, dim=1)),
    "flipped": lambda x: x.flip(1),
    "rolled": lambda x: torch.roll(x, 1, -1),
    "every other": lambda x: x[:, ::2],
    "the last ones": lambda x: x[..., -3:],
    "narrow": lambda x: x.narrow(1, 0, 2),
    "None for a dimension": lambda x: x[:, None].squeeze(1),
    "unsqueeze and expand": lambda x: x.unsqueeze(1).expand(-1, 2, *x.shape[1:]).flatten(1, 2),
    "contiguous": lambda x: x.contiguous(),
    "x.type_as": lambda x: x.type_as(x) * 0.5,
    "x.float()": lambda x: x.float() * 0.5,
    "x.to(x.dtype)": lambda x: x.to(x.dtype) * 0.5,
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
}
IMAGES = {
    "F.max_pool2d": lambda x: F.max_pool2d(x, 2),
    "F.avg_pool2d": lambda x: F.avg_pool2d(x, 2, 1, 1),
    "F.adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, 2),
    "F.pad with zeros": lambda x: F.pad(x, (1, 0, 0, 1)),
    "F.pad with a value": lambda x: F.pad(x, (1, 1), value=0.5),
    "F.pad of channels": lambda x: F.pad(x, (0, 0, 0, 0, 0, x.shape[1])),
    "F.pad reflect": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "F.pad replicate": lambda x: F.pad(x, (1, 0, 1, 0), mode="replicate"),
    "F.pad circular": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "F.pad that cuts": lambda x: F.pad(x, (-1, 0, 0, -1)),
    "F.interpolate": lambda x: F.interpolate(x, scale_factor=2),
    "F.interpolate to a size": lambda x: F.interpolate(x, size=x.shape[2:]),
    "x.max(2)[0]": lambda x: x.max(2)[0].unsqueeze(2),
    "x.max(dim).values": lambda x: torch.max(x, dim=3, keepdim=True).values,
    "x.min(2)[0]": lambda x: x.min(2, keepdim=True)[0],
    "amax": lambda x: x.amax((2, 3), keepdim=True),
    "mean over pixels": lambda x: x.mean([2, 3], keepdim=True),
    "mean twice": lambda x: x.mean(3).mean(2)[:, :, None, None],
    "sum over channels": lambda x: x.sum(1, keepdim=True),
    "deviation from the mean": lambda x: x - x.mean(dim=(2, 3), keepdim=True),
    "permuted to the end and back": lambda x: F.relu(x.permute(0, 2, 3, 1) + 0.1).permute(0, 3, 1, 2),
    "transposed": lambda x: x.transpose(2, 3),
    "x.mT": lambda x: x.mT,
    "flattened and viewed": lambda x: x.flatten(2).view(x.size(0), x.size(1), *x.shape[2:]),
    "shuffled channels": lambda x: x.view(x.size(0), 2, -1, *x.shape[2:]).transpose(1, 2).reshape(x.shape),
    "space to depth": lambda x: torch.cat([x[..., ::2, ::2], x[..., ::2, 1::2]], 1) if not x.size(3) % 2 else x,
    "unbind and stack": lambda x: torch.stack(x.unbind(2)[::-1], dim=2),
    "quarters": lambda x: torch.cat([part * 0.5 for part in torch.split(x, [1, x.shape[1] - 1], dim=1)], 1),
}
# Their constants are known to mathematics, and little used.
RARE = {
    "index_select": lambda x: x.index_select(1, torch.tensor([1, 0])),
    "a list of indices": lambda x: x[:, [0, 1, 0]],
    "sort": lambda x: x.sort(dim=1)[0],
    "cumsum": lambda x: x.cumsum(1) / x.shape[1],
    "logsumexp": lambda x: torch.stack([x, x * 0.5], 1).logsumexp(1),
    "log_softmax": lambda x: F.log_softmax(x, dim=1),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "lerp": lambda x: torch.lerp(x, x.tanh(), 0.3),
    "median": lambda x: x.median(dim=1, keepdim=True).values,
    "repeat": lambda x: x.repeat(1, 2, *[1] * (x.ndim - 2)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=1),
    "sqrt(x + 1)": lambda x: torch.sqrt(x.abs() + 1),
    "hypot": lambda x: torch.hypot(x, torch.ones_like(x)),
    "diff": lambda x: x.diff(dim=1),
    "tril": lambda x: x.tril() if x.ndim == 4 else x * 0.5,
    "topk": lambda x: x.topk(2, dim=1).values,
    "addcmul with numbers": lambda x: torch.addcmul(x, torch.ones_like(x), torch.ones_like(x), value=0.5),
    "norm over channels": lambda x: x.norm(dim=1, keepdim=True) * torch.ones(2).view(-1, *[1] * (x.ndim - 2)),
    "rfft": lambda x: torch.fft.rfft(x, norm="ortho").abs(),
}
RARE_OF_IMAGES = {
    "softmax over channels": lambda x: torch.softmax(x, dim=1),
    "unfold": lambda x: F.unfold(x, 2).unsqueeze(1),
    "rot90": lambda x: torch.rot90(x, 1, (2, 3)),
    "movedim": lambda x: x.movedim(1, -1),
    "einsum over pixels": lambda x: torch.einsum("bchw->bcwh", x),
}


each(__name__, ANYWHERE, ranks=BOTH)
each(__name__, IMAGES)
each(__name__, {"softmax": lambda x: torch.softmax(x, dim=1)}, ranks=VECTORS)
each(__name__, RARE, legal=False, ranks=BOTH)
each(__name__, RARE_OF_IMAGES, legal=False)
