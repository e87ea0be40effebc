"""From a configuration to what it names: the net, its criterion, its optimizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gloro_fast.errors import ConfigError
from gloro_fast.losses import LOSSES, Criterion
from gloro_fast.models import architectures
from gloro_fast.net.gloro_net import GloRoNet
from gloro_fast.recipes import Recipe
from gloro_fast.train.config import RunConfig
from gloro_fast.train.muon import Muon

# Where torch has the single-kernel Adam for float32.
_FUSED_ADAM = ("cpu", "cuda")
# Where the learning rate is a tensor, which a captured step reads at every replay.
_TENSOR_RATE = ("cuda",)


def build_net(config: RunConfig, device: str = "cpu") -> GloRoNet:
    """Build the net of a run with the initial weights of its seed; torch's global generator is left alone.

    Args:
        config: the configuration; its recipe's ``epsilon`` becomes the net's.
        device: where the net is wanted. Weights are drawn on the CPU, the same for every device.

    Raises:
        ConfigError: there is no such device, or an unknown architecture.
        ArchitectureError: the architecture does not fit the images.
    """
    recipe = config.recipe
    place = usable_device(device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        module = architectures.build(
            recipe.architecture,
            recipe.activation,
            input_shape=config.input_shape,
            num_classes=config.num_classes,
            initialization=recipe.initialization,
        )
    margins = LOSSES[recipe.loss].margins
    return GloRoNet(module, recipe.epsilon, config.input_shape, recipe.power_iterations, margins).to(place)


def memory_format(net: nn.Module, device: torch.device) -> torch.memory_format:
    """Say how weights and batches lie in memory while training; files have them row by row in any case.

    Args:
        net: the net to be trained.
        device: where.
    """
    # Convolutions reorder NCHW tensors back and forth: on two cores, shared with other work, a step took 0.76 (2C2F,
    # batch 512), 0.73 (4C3F, 128) and 0.74 (6C2F, 128) times as long in channels_last; medians of 12 rounds.
    convolves = any(isinstance(module, nn.Conv2d) for module in net.modules())
    return torch.channels_last if convolves else torch.contiguous_format


def build_criterion(recipe: Recipe) -> Criterion:
    """Return the criterion of the epochs after warm-up; lambda is set epoch by epoch."""
    return LOSSES[recipe.loss].build()


def build_optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return the optimizer that the recipe names.

    That is the paper's Adam (Leino et al. 2021, Appendix B), in one fused kernel where torch has it, or Muon.
    """
    parameters = list(net.parameters())
    device = parameters[0].device
    fused, capturable = device.type in _FUSED_ADAM, device.type in _TENSOR_RATE
    rate = torch.tensor(recipe.learning_rate, device=device) if capturable else recipe.learning_rate
    if recipe.optimizer == "muon":
        return Muon(parameters, rate, recipe.weight_decay, dtype=getattr(torch, recipe.precision))
    return torch.optim.Adam(
        parameters,
        lr=rate,
        betas=(0.9, 0.999),
        eps=1e-7,
        weight_decay=recipe.weight_decay,
        # Adam without decay is another kernel, whose bits are the paper's recipes'.
        decoupled_weight_decay=recipe.weight_decay > 0,
        fused=fused,
        capturable=capturable,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def usable_device(name: str) -> torch.device:
    """Return the device called ``name``.

    Raises:
        ConfigError: torch does not know it or cannot use it here.
    """
    try:
        # Reading a value back: the meta device makes tensors but holds no numbers.
        probe = torch.zeros((), device=name)
        probe.item()
        return probe.device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"device {name!r} cannot be used ({reason}); use --device cpu or one that is there") from None
