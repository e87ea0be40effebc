"""Rows of the paper run anew: everything that is measured of a net, kept stage by stage, and the report on it.

Stands on ``train``, ``evaluate``, ``data`` and ``recipes.paper``; ``gloro-fast reproduce`` runs it.
"""
