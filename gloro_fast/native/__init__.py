"""What runs compiled: ``extension`` loads the library of C++ and CUDA ops, ``dispatch`` the Triton kernels of a GPU.

Stands on nothing but torch; the Triton kernels are imported when the first of them runs. The ops ask it what they can
call, ``doctor`` switches off what it finds wrong, and the command line reports what is there.
"""
