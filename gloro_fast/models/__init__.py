"""Networks to train: architectures by name, LiResNet among them, and the conversion of a plain PyTorch model.

Stands on ``nn`` and ``rules``. ``train`` and ``keras_weights`` build by name; ``gloro_fast`` itself hands out
``architectures``, ``convert`` and ``revert``.
"""
