"""How a model on the Hugging Face hub is called."""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_REVISION = "main"
# The hub's own rules. No name has two dashes or dots in a row.
PATTERN = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})"
    r"(@(?P<revision>[A-Za-z0-9][\w./-]{0,95}))?"
    r"(:(?P<gguf>[A-Za-z0-9][\w.-]{0,127}))?",
    re.ASCII,
)
SYNTAX = "org/name[@revision][:quantisation or file.gguf]"
# The same for a `--help`, and not in brackets, which rich takes for markup.
HUB_MODEL = "a hub's org/name, org/name@revision, org/name:Q4_K_M"


@dataclass(frozen=True, slots=True)
class HubReference:
    """`org/name`, a branch, tag or commit of it, and for one of its GGUF files the quantisation
    (`Q4_K_M`) or the file's name."""

    repo: str
    revision: str = DEFAULT_REVISION
    gguf: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubReference | None:
        """None for a text of another form than `SYNTAX`."""
        match = PATTERN.fullmatch(text)
        if match is None or ".." in text or "--" in text:
            return None
        if match["repo"].lower().endswith(".gguf"):
            return None  # a path
        return cls(match["repo"], match["revision"] or DEFAULT_REVISION, match["gguf"])

    def __str__(self) -> str:
        revision = "" if self.revision == DEFAULT_REVISION else f"@{self.revision}"
        return f"{self.repo}{revision}{f':{self.gguf}' if self.gguf else ''}"

    @property
    def folder_name(self) -> str:
        """A name for it in a folder, from which `parse_folder_name` has it back."""
        return str(self).replace("/", "--").replace(":", "+")

    @classmethod
    def parse_folder_name(cls, name: str) -> HubReference | None:
        return cls.parse(name.replace("--", "/").replace("+", ":"))
