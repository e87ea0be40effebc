"""GloRoNet: a classifier with its Lipschitz bound, its power iterates, and the certificates that it gives.

Stands on ``graph``, ``signing``, ``rounding_error``, ``losses`` and ``ops``. Training, evaluation and certificate files
work with the net; ``gloro_fast`` itself hands out ``GloRoNet`` and ``Certificate``.
"""
