"""Finds the kernels that this processor runs, and loads them."""

from __future__ import annotations

import os
from contextlib import suppress
from ctypes import CDLL, c_bool, c_char_p, c_int64, c_void_p, sizeof
from functools import cache
from hashlib import sha256
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from tandem.core.errors import ConfigError
from tandem.core.installation import install_tandem
from tandem.native import structs

# From the slowest to the fastest; the index is `tandem_level`.
INSTRUCTIONS = ("plain", "avx2", "avx512", "amx")
# In whose library those are that have none of their own.
LIBRARIES = {"amx": "avx512"}
VARIABLE = "TANDEM_KERNELS"
TORCH = "torch"
FOLDER = Path(__file__).parent


class KernelsMissing(Exception):
    """There are no kernels here. The message says why, and what mends it."""


class Kernels:
    """The kernels for one instruction set; `has_tiles` if that is AMX; weights are packed alike for
    all that have one `library`. `functions` are those of `kernels.cpp`, which need not hold the
    GIL; they raise `MemoryError`."""

    def __init__(self, path: Path, instructions: str) -> None:
        """Raises `OSError`, and `KernelsMissing` for a library that was built for another Python
        code than this."""
        self.instructions = instructions
        self.has_tiles = instructions == "amx"
        self.library = library_of(instructions)
        self.functions = CDLL(str(path))
        if not _has_our_interface(self.functions):
            raise _stale()
        self.width: int = self.functions.tandem_width()
        self.max_head_dim: int = self.functions.tandem_max_head_dim()
        self.max_group: int = self.functions.tandem_max_group()
        build: bytes = self.functions.tandem_build()
        self.build = build.decode()

    def __str__(self) -> str:
        return f"kernels {self.build} {self.instructions}"

    def padded(self, count: int) -> int:
        """The length that a row of `count` items takes in a buffer."""
        return -(-count // self.width) * self.width


def library_of(instructions: str) -> str:
    """The one of `INSTRUCTIONS` in whose library they are."""
    return LIBRARIES.get(instructions, instructions)


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
    if torch_is_wanted():
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


def torch_is_wanted() -> bool:
    """Whether `TANDEM_KERNELS` asks for torch's own operations."""
    return os.environ.get(VARIABLE) == TORCH


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
        kernels = Kernels(path, instructions)
    except OSError as error:
        raise KernelsMissing(f"the kernels cannot be loaded: {error}") from error
    if (sources := _sources_hash()) and kernels.build != sources:
        raise _stale()
    return kernels


def _sources_hash() -> str:
    """What `setup.py` compiles in, of the sources as they are now; empty where there are none: a
    wheel brings its kernels with it."""
    files = sorted(path for path in FOLDER.iterdir() if path.suffix in (".h", ".cpp"))
    contents = b"".join(path.read_bytes() for path in files)
    return sha256(contents).hexdigest()[:8] if files else ""


def _path(instructions: str) -> Path:
    for suffix in EXTENSION_SUFFIXES:
        path = FOLDER / f"_kernels_{library_of(instructions)}{suffix}"
        if path.exists():
            return path
    raise _unbuilt("the kernels were not built when Tandem was installed")


def _stale() -> KernelsMissing:
    return _unbuilt("the kernels were built from other sources than are here now")


def _unbuilt(why: str) -> KernelsMissing:
    command = install_tandem("--force-reinstall", "--no-deps")
    return KernelsMissing(f"{why}; with a C++ compiler (g++) at hand run: {command}")


def _has_our_interface(functions: CDLL) -> bool:
    """Whether a library has the functions and structs that are known here. It declares them."""
    try:
        _declare(functions)
    except AttributeError:
        return False
    found = [functions.tandem_struct_bytes(index) for index in range(len(structs.ALL) + 1)]
    return found == [*map(sizeof, structs.ALL), 0]


def _declare(functions: CDLL) -> None:
    pointer, flag, number = c_void_p, c_bool, c_int64
    for name in ("level", "width", "max_head_dim", "max_group", "struct_bytes"):
        getattr(functions, f"tandem_{name}").restype = c_int64
    functions.tandem_struct_bytes.argtypes = (number,)
    functions.tandem_build.restype = c_char_p
    for name, arguments in {
        "pack": (flag, pointer, pointer, number, number),
        "quantize": (flag, number, pointer, pointer, number, number),
        "embed": (flag, pointer, pointer, pointer, pointer),
        "touch": (pointer, number),
    }.items():
        function = getattr(functions, f"tandem_{name}")
        function.argtypes = arguments
        function.restype = None
    for name, arguments in {
        "before_attention": (flag, pointer, pointer, number),
        "attention": (flag, pointer, pointer, number),
        "after_attention": (flag, pointer, pointer, number),
        "logits": (flag, pointer, pointer, pointer, number, pointer),
        "linear": (flag, pointer, pointer, pointer, number, pointer),
    }.items():
        function = getattr(functions, f"tandem_{name}")
        function.argtypes = arguments
        function.restype = c_bool
        function.errcheck = _check_memory
    functions.tandem_quantized_bytes.argtypes = (number, number, number)
    functions.tandem_quantized_bytes.restype = c_int64
    functions.tandem_read.argtypes = (pointer, pointer, number)
    functions.tandem_read.restype = c_int64


def _check_memory(had_memory: bool, *_: object) -> None:
    if not had_memory:
        raise MemoryError("the kernels ran out of memory")
