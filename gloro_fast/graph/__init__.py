"""The graph of a classifier: traced, read into nodes with rules, and composed into a Lipschitz constant.

One room each: ``tracing`` follows a forward; ``reading`` makes nodes of it, with ``views``, ``arithmetic``,
``reductions`` and ``weighted`` for the functions; ``aliasing`` refuses what is overwritten too early; ``merging`` and
``kernels`` join linear operations; ``composition`` gives the constant; ``head`` finds the last layer.
"""
