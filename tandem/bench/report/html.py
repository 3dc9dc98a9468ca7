"""Whole pages of HTML that stand alone: no script, no network, one style sheet that is their own.

Whatever comes from elsewhere is escaped where it becomes `Html`; what is `Html` is not escaped
again.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape

from tandem.bench.report.style import STYLE


class Html(str):
    """What may stand in a page as it is."""

    __slots__ = ()


def text(value: object) -> Html:
    """Anything, as text."""
    return Html(escape(str(value)))


def element(name: str, content: Html, classes: str = "") -> Html:
    """`<name class="classes">content</name>`."""
    attributes = f' class="{escape(classes)}"' if classes else ""
    return Html(f"<{name}{attributes}>{content}</{name}>")


def joined(parts: Iterable[Html]) -> Html:
    return Html("".join(parts))


def header(title: str, line: str) -> Html:
    """What a page begins with."""
    parts = (element("h1", text(title)), element("p", text(line), "subtitle"))
    return element("header", joined(parts))


def card(heading: str, *parts: Html) -> Html:
    """A box with a heading."""
    return element("section", joined([element("h2", text(heading)), *parts]), "card")


def table(headings: Sequence[str], rows: Sequence[Sequence[str | Html]]) -> Html:
    """The first column is text, all others are numbers. Without any heading it has no head."""
    head = joined(
        element("th", text(each), "number" if column else "")
        for column, each in enumerate(headings)
    )
    body = joined(
        element(
            "tr",
            joined(
                element(
                    "td",
                    each if isinstance(each, Html) else text(each),
                    "number" if column else "wide",
                )
                for column, each in enumerate(row)
            ),
        )
        for row in rows
    )
    has_head = any(headings)
    whole = joined([element("thead", element("tr", head))] * has_head + [element("tbody", body)])
    return element("div", element("table", whole), "scroll")


def page(title: str, *parts: Html) -> str:
    """A document whose policy allows its own style sheet and nothing else."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            f'<body class="stack">{joined(parts)}</body>',
            "</html>",
            "",
        )
    )
