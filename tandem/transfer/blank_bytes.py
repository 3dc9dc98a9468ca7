"""Bytes that are written once, before anybody else sees them."""

from __future__ import annotations

import ctypes

# CPython's own way to make large bytes in place: "if v is NULL, the contents of the bytes object
# are uninitialized", for its creator to fill. gRPC takes nothing but bytes, and to build a frame
# elsewhere and convert it would copy megabytes once more, holding the GIL.
_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_char_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(
    ("PyBytes_AsString", ctypes.pythonapi)
)


def blank_bytes(size: int) -> tuple[bytes, memoryview]:
    """Uninitialised bytes, and a writable view of them. `size` is at least 2, since shorter ones
    are shared. Write everything, then drop the view: it does not keep the bytes alive."""
    if size < 2:
        raise ValueError(f"bytes of size {size} are shared")
    blank: bytes = _new_bytes(None, size)
    view = memoryview((ctypes.c_char * size).from_address(_address(blank)))
    return blank, view.cast("B")
