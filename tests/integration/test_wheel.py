"""The built wheel, installed elsewhere, is complete and brings nothing that it should not."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

# It compiles kernels.
pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parents[2]
TOP_LEVEL = {"tandem", "prefill_service", "decode_service", "gateway"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        # With this environment's setuptools: none is fetched.
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", str(folder), str(ROOT)],
        check=True,
        capture_output=True,
        # As any others are, and sooner.
        env={**os.environ, "TANDEM_BUILD_KERNELS": "plain"},
    )
    (path,) = folder.glob("tandem_serve-*.whl")
    return path


def test_it_holds_the_packages_and_their_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == TOP_LEVEL
    assert "tandem/artifacts/mock/tokenizer.json" in names
    assert "gateway/page/static/index.html" in names
    assert "tandem/py.typed" in names
    assert any(name.startswith("tandem/native/_kernels_plain.") for name in names)


def test_it_runs_from_another_place(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run([sys.executable, *install], check=True)
    env = {**os.environ, "PYTHONPATH": str(site)}
    for program, expected in (
        ("import tandem, gateway; print(tandem.__file__, gateway.__file__)", str(site)),
        ("import tandem.cli, sys; print('torch' in sys.modules)", "False"),
        ("import gateway.service, sys; print('torch' in sys.modules)", "False"),
        ("from gateway.page.assets import read_assets; print(*read_assets())", "main.js"),
        ("from tandem.artifacts.resolve import resolve; print(resolve('mock').name)", "mock"),
    ):
        output = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=env,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert expected in output
    command = [sys.executable, "-m", "tandem.cli", "--help"]
    subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
