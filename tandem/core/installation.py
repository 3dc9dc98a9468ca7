"""How what is missing is installed: by the pip of the Python that runs, from where Tandem came.

By its name alone an index would be asked, where that may be somebody else's.
"""

from __future__ import annotations

import shlex
import sys
from importlib.metadata import version
from pathlib import Path

# What pip knows it as.
DISTRIBUTION = "tandem-serve"
ROOT = Path(__file__).parents[2]
# What stands for the user's own copy where there is no checkout.
SOMEWHERE = "path/to/tandem"


def own_version() -> str:
    """This build's."""
    return version(DISTRIBUTION)


def pip_install(*arguments: str) -> str:
    """The command, as a shell takes it."""
    return shlex.join((sys.executable, "-m", "pip", "install", *arguments))


def install_tandem(*flags: str, extra: str = "") -> str:
    """The command for Tandem itself, with the extra of that name: the versions are those of the
    lock where that is here."""
    what = f"[{extra}]" if extra else ""
    if not (ROOT / "pyproject.toml").exists():
        return pip_install(*flags, f"{SOMEWHERE}{what}")
    return pip_install(*flags, "-c", str(ROOT / "requirements.lock"), "-e", f"{ROOT}{what}")
