"""How to install what is missing is told for this Python, and never by Tandem's name."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from tandem.core import installation
from tandem.core.installation import install_tandem


def test_a_checkout_is_installed_with_the_versions_of_its_lock() -> None:
    root = Path(__file__).parents[3]
    assert shlex.split(install_tandem(extra="torch")) == [
        *(sys.executable, "-m", "pip", "install"),
        *("-c", str(root / "requirements.lock"), "-e", f"{root}[torch]"),
    ]
    assert (root / "requirements.lock").exists()


def test_without_a_checkout_nobody_is_sent_to_an_index(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(installation, "ROOT", tmp_path)
    *_, flag, what = shlex.split(install_tandem("--force-reinstall", extra="otel"))
    assert (flag, what) == ("--force-reinstall", "path/to/tandem[otel]")
