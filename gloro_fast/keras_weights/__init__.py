"""Weights trained with Keras, the paper's authors' for example, brought into the architectures of this package.

Stands on ``models``. ``train`` makes a finished run of them, and the command line imports with it.
"""

from gloro_fast.keras_weights.loading import ImportedNet, load_keras

__all__ = ["ImportedNet", "load_keras"]
