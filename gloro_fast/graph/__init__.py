"""The graph of a classifier: captured, read into nodes with rules, tried, and composed into a Lipschitz constant.

One room each: ``capture`` runs a forward without values, seen by ``watcher``; ``reading`` makes nodes of the operations
of ATen that it comes to, by what ``functions`` knows of them, with ``views``, ``arithmetic``, ``reductions`` and
``weighted``; ``agreement`` tries whether the graph computes what the module does; ``reads`` holds what the forward may
have read; ``aliasing`` refuses what is overwritten too early; ``merging`` and ``kernels`` join linear operations;
``composition`` gives the constant; ``head`` finds the last layer.
"""
