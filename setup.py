"""The kernels of `tandem/native`, built once for each instruction set that they choose from.

All else is in pyproject.toml. Without a compiler the install succeeds, and the engine takes torch's
own, slower operations and says so. `TANDEM_BUILD_KERNELS` names those that are wanted, if not all.

The compiler reads its flags itself, from `common.flags` and those of the instruction set: so do all
others that compile the kernels.
"""

import hashlib
import os
import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel

FOLDER = Path("tandem/native")
X86 = platform.machine().lower() in ("x86_64", "amd64")
# Fused only where the code says so; items of all kinds are read by words (`matmul.h`); and no
# warnings of GCC's own headers of intrinsics.
COMMON = FOLDER / "common.flags"
ALL = {
    "plain": [],
    **({each: [FOLDER / f"{each}.flags"] for each in ("avx2", "avx512")} if X86 else {}),
}
WANTED = os.environ.get("TANDEM_BUILD_KERNELS", " ".join(ALL)).split()
if unknown := set(WANTED) - set(ALL):
    raise SystemExit(f"TANDEM_BUILD_KERNELS: {', '.join(unknown)}; there are {', '.join(ALL)}")
# The plain ones say what the processor has.
BUILDS = {name: ALL[name] for name in dict.fromkeys(["plain", *WANTED])}


def sources_hash() -> str:
    files = sorted(path for path in FOLDER.iterdir() if path.suffix in (".h", ".cpp"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:8]


def kernels(name: str, flags: list[Path]) -> Extension:
    # Not a module to import but a library for ctypes: it knows nothing of Python, so that one wheel
    # serves all of its versions.
    return Extension(
        f"tandem.native._kernels_{name}",
        [str(FOLDER / "kernels.cpp")],
        depends=[str(path) for path in (*FOLDER.glob("*.h"), COMMON, *flags)],
        define_macros=[("TANDEM_BUILD", f'"{sources_hash()}"')],
        extra_compile_args=[f"@{path}" for path in (COMMON, *flags)],
        py_limited_api=True,
        optional=True,
    )


class PlatformWheel(bdist_wheel):
    """For every Python 3 of this platform."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[kernels(name, flags) for name, flags in BUILDS.items()],
    cmdclass={"bdist_wheel": PlatformWheel},
    # All at once: each is one compiler for half a minute.
    options={"build_ext": {"parallel": len(BUILDS)}},
)
