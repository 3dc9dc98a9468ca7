"""What the pages link to is there, and what there is to set is on the pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from decode_service.service import DecodeSettings
from gateway.http.schemas.base import Body
from gateway.http.schemas.chat import ChatBody
from gateway.http.schemas.completion import CompletionBody
from gateway.http.schemas.tokenize import DetokenizeBody, TokenizeBody
from gateway.settings import GatewaySettings
from prefill_service.service import PrefillSettings
from tandem.cli.app import commands
from tandem.client import GenerateArguments
from tandem.process.flags import flag_of
from tandem.process.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for folder in ("", "docs/", "benchmarks/*/", "examples/*/")
    for page in ROOT.glob(folder + "*.md")
)
SERVICES = {"gateway": GatewaySettings, "prefill": PrefillSettings, "decode": DecodeSettings}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELLS = ("sh", "bash")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(page: Path) -> str:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


def not_on_the_apis_page(names: Iterable[str]) -> list[str]:
    text = (ROOT / "docs" / "api.md").read_text()
    return [name for name in names if f"`{name}`" not in text]


def commands_on(page: Path) -> Iterator[list[str]]:
    """The words behind each `tandem` of the page's shell commands."""
    blocks = [text for language, text in BLOCK.findall(page.read_text()) if language in SHELLS]
    for block in blocks:
        for line in block.replace("\\\n", "").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set("();<>|&"):
                    if "tandem" in words:
                        yield words[words.index("tandem") + 1 :]
                    words = []
                else:
                    words.append(word.rpartition("/")[2] if word.endswith("/tandem") else word)


def flags_of_command(words: list[str]) -> set[str]:
    """Those that the command takes which begins with these words."""
    command: Any = typer.main.get_command(commands)
    for word in words:
        if word in SERVICES:
            return {flag_of(name) for name in SERVICES[word].model_fields}
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
    return {each for option in command.params for each in (*option.opts, *option.secondary_opts)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_the_flags_that_pages_give_them(page: Path) -> None:
    unknown = [
        (words, flag)
        for words in commands_on(page)
        for word in words
        if (flag := word.partition("=")[0]).startswith("--") and flag != "--"
        if flag not in {*flags_of_command(words), "--help"}
    ]
    assert unknown == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = [each for each in LINK.findall(without_code(page)) if "://" not in each]
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


@pytest.mark.parametrize("service", SERVICES.values())
def test_every_flag_of_a_service_is_on_some_page(service: type[ServiceSettings]) -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    missing = [
        name
        for name in service.model_fields
        if f"TANDEM_{name.upper()}" not in text
        and not re.search(rf"{flag_of(name)}(?![\w-])", text)
    ]
    assert missing == []


@pytest.mark.parametrize("body", [ChatBody, CompletionBody, TokenizeBody, DetokenizeBody])
def test_every_field_of_a_request_is_on_the_apis_page(body: type[Body]) -> None:
    assert not_on_the_apis_page(body.model_fields) == []


def test_every_argument_of_the_sdk_is_on_the_apis_page() -> None:
    assert not_on_the_apis_page(GenerateArguments.__annotations__) == []


def named_on_pages(pattern: str) -> set[str]:
    """What is found in code: the pattern's group."""
    return {
        name
        for page in PAGES
        for name in re.findall(rf"(?:^|`|&& ){pattern}", page.read_text(), re.MULTILINE)
    }


def test_tests_that_pages_name_are_there() -> None:
    files = [*(ROOT / "tests").rglob("test_*.py")]
    there = {each.stem for each in files}
    for each in files:
        there.update(re.findall(r"^(?:async )?def (test_\w+)", each.read_text(), re.MULTILINE))
    named = named_on_pages(r"(?:\w+/)*(test_\w+)(?:\.py)?`")
    assert len(named) > 50
    assert named - there == set()


def test_targets_that_pages_name_are_there() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = named_on_pages(r"make (?:-C \S+ )?([\w-]+)")
    assert len(named) > 10
    assert named - {*targets} == set()


def test_pages_have_links_to_check() -> None:
    assert sum(len(LINK.findall(without_code(page))) for page in PAGES) > 50


def test_pages_have_commands_to_check() -> None:
    assert sum(len([*commands_on(page)]) for page in PAGES) > 50
