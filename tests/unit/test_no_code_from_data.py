"""Nothing that Tandem reads can become code: none of what could do that is used anywhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("tandem", "gateway", "prefill_service", "decode_service", "benchmarks", "examples")
# Their formats hold programs; `multiprocessing` speaks the first of them between processes.
BANNED_MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle"}
BANNED_MODULES |= {"marshal", "shelve", "multiprocessing", "code", "codeop", "runpy"}
BANNED_NAMES = frozenset({"eval", "exec", "compile", "__import__", "ProcessPoolExecutor"})
BANNED_ATTRIBUTES = frozenset(
    {
        ("torch", "load"),
        ("torch", "save"),
        ("torch", "package"),
        ("yaml", "load"),
        ("yaml", "unsafe_load"),
        ("os", "system"),
        ("os", "popen"),
        ("jinja2", "Environment"),
        ("jinja2", "Template"),
    }
)


def sources() -> list[Path]:
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return [ROOT / "setup.py", *files]


def findings(source: str) -> Iterator[str]:
    """What of a source may run what it reads."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names):
                yield from (f"import {each.name}" for each in names if _is_banned(each.name))
            case ast.ImportFrom(str(module), names):
                if _is_banned(module):
                    yield f"from {module}"
                pairs = {(module, each.name) for each in names}
                yield from (f"from {a} import {b}" for a, b in pairs & BANNED_ATTRIBUTES)
                yield from (each.name for each in names if each.name in BANNED_NAMES)
            case ast.Name(name) if name in BANNED_NAMES:
                yield name
            case ast.Attribute(ast.Name(owner), name) if (owner, name) in BANNED_ATTRIBUTES:
                yield f"{owner}.{name}"
            case ast.keyword("shell" | "allow_pickle" as name, value):
                if not (isinstance(value, ast.Constant) and value.value is False):
                    yield f"{name}={ast.unparse(value)}"


def _is_banned(module: str) -> bool:
    return module.partition(".")[0] in BANNED_MODULES


def test_no_source_has_any() -> None:
    files = sources()
    assert len(files) > 200
    found = {str(file.relative_to(ROOT)): list(findings(file.read_text())) for file in files}
    assert {file: each for file, each in found.items() if each} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle as p",
        "import multiprocessing.pool",
        "from marshal import loads",
        "from concurrent.futures import ProcessPoolExecutor",
        "eval('1')",
        "run = exec",
        "torch.load(path, weights_only=True)",
        "from torch import load",
        "yaml.load(text)",
        "from jinja2 import Environment",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "numpy.load(path, allow_pickle=wanted)",
    ],
)
def test_any_of_them_would_be_found(source: str) -> None:
    assert list(findings(source))


def test_what_is_only_named_alike_is_not() -> None:
    source = "model.eval(); re.compile('a'); torch.compile(f); run(['ls'], shell=False)"
    assert not list(findings(source))
