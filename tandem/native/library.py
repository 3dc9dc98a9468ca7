"""Finds the kernels that this processor runs, and loads them."""

from __future__ import annotations

import os
from contextlib import suppress
from ctypes import CDLL, c_bool, c_char_p, c_int64, c_void_p
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from tandem.core.errors import ConfigError
from tandem.core.installation import install_tandem

# From the slowest to the fastest; the index is `tandem_level`.
INSTRUCTIONS = ("plain", "avx2", "avx512")
VARIABLE = "TANDEM_KERNELS"
TORCH = "torch"
FOLDER = Path(__file__).parent


class KernelsMissing(Exception):
    """There are no kernels here. The message says why, and what mends it."""


class Kernels:
    """The library for one instruction set. `functions` are those of `kernels.cpp`, which need not
    hold the GIL."""

    def __init__(self, path: Path, instructions: str) -> None:
        self.instructions = instructions
        self.functions = CDLL(str(path))
        _declare(self.functions)
        self.width: int = self.functions.tandem_width()
        build: bytes = self.functions.tandem_build()
        self.build = build.decode()

    def __str__(self) -> str:
        return f"kernels {self.build} {self.instructions}"

    def padded(self, count: int) -> int:
        """The length that a row of `count` items takes in a buffer."""
        return -(-count // self.width) * self.width


def load(instructions: str) -> Kernels:
    """The kernels for one of `INSTRUCTIONS`. Raises `KernelsMissing`."""
    if INSTRUCTIONS.index(instructions) > _level():
        raise KernelsMissing(f"this processor lacks the instructions of {instructions}")
    return _open(_path(instructions), instructions)


def best() -> Kernels:
    """The fastest kernels that this processor runs, or those that `TANDEM_KERNELS` asks for.
    Raises `KernelsMissing`, also where that asks for torch, and `ConfigError` if it asks for what
    there is not."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == TORCH:
        raise KernelsMissing(f"{VARIABLE} asks for torch's own operations")
    if wanted and wanted not in INSTRUCTIONS:
        known = ", ".join((*INSTRUCTIONS, TORCH))
        raise ConfigError(f"{VARIABLE} is {wanted!r}: write one of {known}")
    if wanted:
        return load(wanted)
    *better, plain = INSTRUCTIONS[_level() :: -1]
    for instructions in better:
        # A compiler that is too old for the best ones builds the others.
        with suppress(KernelsMissing):
            return load(instructions)
    return load(plain)


def faster_than(kernels: Kernels) -> tuple[str, ...]:
    """The instruction sets that this processor has beyond those of `kernels`."""
    return INSTRUCTIONS[INSTRUCTIONS.index(kernels.instructions) + 1 : _level() + 1]


def _level() -> int:
    """The index of the best instruction set of this processor."""
    level: int = _open(_path("plain"), "plain").functions.tandem_level()
    return level


@cache
def _open(path: Path, instructions: str) -> Kernels:
    try:
        return Kernels(path, instructions)
    except OSError as error:
        raise KernelsMissing(f"the kernels cannot be loaded: {error}") from error


def _path(instructions: str) -> Path:
    for suffix in EXTENSION_SUFFIXES:
        path = FOLDER / f"_kernels_{instructions}{suffix}"
        if path.exists():
            return path
    raise KernelsMissing(
        "the kernels were not built when Tandem was installed; with a C++ compiler (g++) at hand"
        f" run: {install_tandem('--force-reinstall', '--no-deps')}"
    )


def _declare(functions: CDLL) -> None:
    pointer, flag, number = c_void_p, c_bool, c_int64
    functions.tandem_level.restype = c_int64
    functions.tandem_width.restype = c_int64
    functions.tandem_build.restype = c_char_p
    for name, arguments in {
        "pack": (flag, pointer, pointer, number, number),
        "quantize": (flag, number, pointer, pointer, number, number),
        "embed": (flag, pointer, pointer, pointer, pointer),
        "before_attention": (flag, pointer, pointer, number),
        "attention": (flag, pointer, pointer, number),
        "after_attention": (flag, pointer, pointer, number),
        "logits": (flag, pointer, pointer, pointer, number, pointer),
        "linear": (flag, pointer, pointer, pointer, number, pointer),
        "touch": (pointer, number),
    }.items():
        function = getattr(functions, f"tandem_{name}")
        function.argtypes = arguments
        function.restype = None
    functions.tandem_quantized_bytes.argtypes = (number, number, number)
    functions.tandem_quantized_bytes.restype = c_int64
    functions.tandem_read.argtypes = (pointer, pointer, number)
    functions.tandem_read.restype = c_int64
