"""Kernels in C++ for a decoder on a CPU, and their loading.

`kernels.cpp` is compiled once for each instruction set (setup.py); `library` takes the best that
this processor has. It is a plain C interface over pointers: torch is no part of the build, and
foreign calls release the GIL.
"""
