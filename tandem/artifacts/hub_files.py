"""Which of a repository's files make a model. Decided from their names; nothing is fetched here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem.artifacts.hub_reference import HubReference
from tandem.artifacts.model_folder import INDEX_FILE, OPTIONAL_FILES, REQUIRED_FILES, SINGLE_FILE
from tandem.core.errors import ConfigError

# Formats that run code when they are read.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
# Of files too large for one.
GGUF_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$", re.IGNORECASE)
# None of the files that describe a model comes near this.
MAX_DESCRIPTION_BYTES = 128 * 2**20


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository as the hub describes it. Large ones have a SHA-256, the others the id
    of git's blob, a SHA-1 over its length and content. A mirror may tell neither."""

    name: str
    size: int
    sha256: str | None
    blob_id: str | None


@dataclass(frozen=True, slots=True)
class HubListing:
    """The files at the top of a repository, by name, at one commit."""

    reference: HubReference
    commit: str
    files: Mapping[str, HubFile]

    def describing(self) -> list[HubFile]:
        """Config, tokenizer and what else is small. Raises `ConfigError` if it is no model in
        transformers' layout with safetensors."""
        for name in REQUIRED_FILES:
            if name not in self.files:
                raise self._lacks(name)
        if not self._weights_entry():
            raise self._lacks_safetensors()
        names = [*REQUIRED_FILES, *OPTIONAL_FILES, INDEX_FILE]
        if self._weights_entry() == SINGLE_FILE:
            names.remove(INDEX_FILE)
        found = [self.files[name] for name in names if name in self.files]
        for file in found:
            if file.size > MAX_DESCRIPTION_BYTES:
                raise ConfigError(
                    f"{self.reference}: {file.name} of {file.size} bytes is too large"
                )
        return found

    def weights(self, shards: Sequence[str]) -> list[HubFile]:
        """The weights' files; `shards` are those that the index names. Raises `ConfigError`."""
        names = [SINGLE_FILE] if self._weights_entry() == SINGLE_FILE else shards
        for name in names:
            if name not in self.files or not name.endswith(".safetensors"):
                raise ConfigError(
                    f"{self.reference} lacks {name!r:.80}, which its index names: it is not whole"
                )
        return [self.files[name] for name in names]

    def gguf(self) -> HubFile | None:
        """The GGUF file that the reference means, if it means one. Raises `ConfigError` if there is
        none such, or several."""
        wanted = self.reference.gguf
        names = sorted(name for name in self.files if name.lower().endswith(".gguf"))
        if wanted is None and ("config.json" in self.files or not names):
            return None
        named = [name for name in names if name == wanted]
        found = named or [name for name in names if wanted is None or _matches(name, wanted)]
        if any(GGUF_PART.search(name) for name in found):
            raise self._is_part(found)
        if len(found) == 1:
            return self.files[found[0]]
        raise ConfigError(
            f"{self.reference} means {len(found) or 'none'} of the GGUF files of"
            f" {self.reference.repo}: write {self.reference.repo}:FILE with one of"
            f" {', '.join(names) or 'none'}",
            param="model",
        )

    def _weights_entry(self) -> str | None:
        return next((name for name in (SINGLE_FILE, INDEX_FILE) if name in self.files), None)

    def _lacks(self, name: str) -> ConfigError:
        hint = ", and this server reads no other kind of tokenizer" if "tok" in name else ""
        return ConfigError(
            f"{self.reference} has no {name}{hint}: it cannot be used", param="model"
        )

    def _is_part(self, found: Sequence[str]) -> ConfigError:
        return ConfigError(
            f"{self.reference} means a part of a GGUF file ({found[0]}): fetch all parts, join them"
            " with llama-gguf-split --merge and give the result, or take a smaller quantisation",
            param="model",
        )

    def _lacks_safetensors(self) -> ConfigError:
        pickles = sorted(name for name in self.files if name.endswith(PICKLES))
        if not pickles:
            return ConfigError(f"{self.reference} holds no safetensors weights", param="model")
        return ConfigError(
            f"{self.reference} holds its weights only as {pickles[0]}: such files (pickle) can run"
            " code when they are read, so only safetensors are. Look for a revision or a"
            " conversion with safetensors",
            param="model",
        )


def _matches(name: str, wanted: str) -> bool:
    """`Q4_K_M` means `model-Q4_K_M.gguf` and `model.q4_k_m.gguf`, not `model-Q4_K_M_L.gguf`."""
    stem, ending = GGUF_PART.sub("", name).lower().removesuffix(".gguf"), wanted.lower()
    return stem.endswith(ending) and stem.removesuffix(ending)[-1:] in ("", "-", ".")
