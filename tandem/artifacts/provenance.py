"""Where a model in the cache is from, kept beside its files."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tandem.artifacts.json_object import read_json_object

FILE = "tandem.json"
# Of what makes our folders of GGUF files. One more for what made them otherwise than it should.
IMPORT_VERSION = 2


@dataclass(frozen=True, slots=True)
class Provenance:
    """`name` is what users call the model, `source` what it was made from: `hub`, a path, a
    package. `revision` is the hub's commit. `import_version` says what imported a GGUF file, None
    for what came as it is."""

    name: str
    source: str
    revision: str | None = None
    import_version: int | None = None

    @classmethod
    def read(cls, folder: Path) -> Provenance | None:
        """None for a folder that was not pulled. Raises `ConfigError`."""
        if not (folder / FILE).exists():
            return None
        fields = read_json_object(folder / FILE)
        revision = fields.text("revision") if fields.has("revision") else None
        version = fields.integer("import_version") if fields.has("import_version") else None
        return cls(fields.text("name"), fields.text("source"), revision, version)

    @property
    def is_outdated(self) -> bool:
        """Whether another version imported it."""
        return self.import_version not in (None, IMPORT_VERSION)

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        (folder / FILE).write_text(text, encoding="utf-8", errors="surrogateescape")
