"""Networks: architectures by name, LiResNet among them, the conversion of a plain PyTorch model, and trained nets.

Stands on ``net``, ``nn`` and ``rules``. ``train`` and ``keras_weights`` build by name; ``gloro_fast`` itself hands out
``architectures``, ``convert`` and ``revert``.
"""

from gloro_fast.models.trained_nets import pretrained

__all__ = ["pretrained"]
