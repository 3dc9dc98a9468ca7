"""What the pages link to is there, and what there is to set is on the pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from decode_service.service import DecodeSettings
from gateway.settings import GatewaySettings
from prefill_service.service import PrefillSettings
from tandem.process.flags import flag_of
from tandem.process.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page for folder in ("", "docs/", "benchmarks/*/") for page in ROOT.glob(folder + "*.md")
)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def without_code(page: Path) -> str:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of a page's headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


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


@pytest.mark.parametrize("service", [GatewaySettings, PrefillSettings, DecodeSettings])
def test_every_flag_of_a_service_is_on_some_page(service: type[ServiceSettings]) -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    missing = [
        name
        for name in service.model_fields
        if f"TANDEM_{name.upper()}" not in text
        and not re.search(rf"{flag_of(name)}(?![\w-])", text)
    ]
    assert missing == []


def test_pages_have_links_to_check() -> None:
    assert sum(len(LINK.findall(without_code(page))) for page in PAGES) > 50
