"""Networks: architectures by name, LiResNet among them, plain models converted, Keras weights, and trained nets.

Stands on ``net``, ``nn`` and ``rules``. ``train`` and the command line build by name and import; ``gloro_fast`` itself
hands out ``architectures``, ``convert``, ``keras_weights`` and ``revert``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gloro_fast.models.trained_nets import pretrained as pretrained

__all__ = ["pretrained"]


def __getattr__(name: str) -> object:
    """Load the trained nets, and the whole net with them, when they are asked for: architectures need neither."""
    if name != "pretrained":
        raise AttributeError(f"module 'gloro_fast.models' has no attribute {name!r}")
    from gloro_fast.models import trained_nets

    return trained_nets.pretrained
