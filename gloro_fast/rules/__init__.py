"""What is known of the Lipschitz constants of layers of PyTorch: the registry of rules, and one file a family.

Stands on ``ops.geometry``. Bounds, graphs and fingerprints ask the registry; ``nn`` adds the rules of its own layers.
"""

# Rules register themselves.
from gloro_fast.rules import activations, batch_norm, linear, log_softmax, pooling, shapes

__all__ = ["activations", "batch_norm", "linear", "log_softmax", "pooling", "shapes"]
