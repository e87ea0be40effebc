"""GloRoNet: a classifier with its power iterates, a bound tied to the bits of its weights, and its certificates.

Stands on ``graph``, ``bounds``, ``rounding_error``, ``losses`` and ``ops``. Training, evaluation and certificate files
work with the net; ``gloro_fast`` itself hands out ``GloRoNet`` and ``Certificate``.
"""
