"""Triton kernels of the ops for GPUs, one file an op, and what several of them share.

Stands on the constants of ``ops``. Nothing imports it: ``native.dispatch`` loads a kernel by name when it first runs.
"""
