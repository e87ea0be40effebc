"""The graph of a classifier: captured, read into nodes with rules, tried, composed into a Lipschitz constant, and run.

Stands on ``nn``, ``rules``, ``bounds`` and ``ops``; ``rounding_error`` and ``net`` work with its ``Plan``.

One room each: ``capture`` runs a forward without values, seen by ``watcher``; ``reading`` makes nodes of the operations
of ATen that it comes to, by what ``functions`` knows of them, with ``views``, ``arithmetic``, ``reductions`` and
``weighted``; ``agreement`` tries whether the graph computes what the module does; ``reads`` holds what the forward may
have read; ``aliasing`` refuses what is overwritten too early; ``merging`` and ``kernels`` join linear operations;
``composition`` gives the constant; ``head`` finds the last layer; ``plan`` is all of that for one net; ``execution``
runs it, with ``flattening`` for speed and ``strictly`` where no switch of the process may have a part.
"""
