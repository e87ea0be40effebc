"""Networks to train: architectures by name, LiResNet among them, with weights of Keras, or converted from plain ones.

Stands on ``nn`` and ``rules``. ``train`` and the command line build by name and import; ``gloro_fast`` itself hands out
``architectures``, ``convert``, ``keras_weights`` and ``revert``.
"""
