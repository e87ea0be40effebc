"""Small trained nets that come with the package."""

from __future__ import annotations

from pathlib import Path

import torch

from gloro_fast.errors import ConfigError, nearest
from gloro_fast.net.gloro_net import GloRoNet

FOLDER = Path(__file__).parent / "trained"
"""Where they lie, each a folder as ``GloRoNet.save_pretrained`` writes it, with its model card."""


def pretrained(name: str, device: torch.device | str = "cpu") -> GloRoNet:
    """Load a trained net that comes with the package, ready to certify.

    Args:
        name: ``"digits"``, 2C2F for scikit-learn's handwritten digits, or ``"mnist-2c2f"``, 2C2F for MNIST, both for
            images in [0, 1] and trained at epsilon 0.3. README.md in its folder below :data:`FOLDER` is its model card:
            VRA, clean accuracy, and how net and figures were made.
        device: where the net is wanted.

    Returns:
        The net in evaluation mode.

    Raises:
        ConfigError: there is none of that name; the message lists them.
        CheckpointError: its files were damaged.
    """
    names = sorted(folder.name for folder in FOLDER.iterdir())
    if name not in names:
        raise ConfigError(f"no trained net {name!r} comes with the package{nearest(name, names)}")
    return GloRoNet.from_pretrained(FOLDER / name, device=device)
