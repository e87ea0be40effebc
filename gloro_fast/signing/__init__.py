"""A bound together with the weights that it holds for, and the looks that tell whether a net still has these.

Stands on ``graph``, ``bounds`` and ``ops.fingerprint``. ``net`` signs with it before it certifies, ``rounding_error``
bounds the pass of what was signed, certificate files record it.
"""
