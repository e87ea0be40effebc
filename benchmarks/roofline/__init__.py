"""What the GPU kernels cost at best: bytes and launches, and from them time on cards. An estimate, not a measurement.

A file an op gives its work; ``python -m benchmarks.roofline`` prints it for the networks that are measured on the CPU.
"""
