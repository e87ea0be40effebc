"""Triton kernels of the package, one op a file; installed as ``gloro_fast.kernels``."""
