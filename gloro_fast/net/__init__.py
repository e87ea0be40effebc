"""GloRoNet: a classifier with its Lipschitz bound, its power iterates, its certificates, and the folder that keeps it.

Stands on ``graph``, ``signing``, ``rounding_error``, ``losses`` and ``ops``. Training, evaluation and certificate files
work with the net; ``gloro_fast`` itself hands out ``GloRoNet`` and ``Certificate``.
"""
