"""The Hugging Face hub: what a repository holds, and its files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from io import BufferedWriter, FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from tandem.artifacts.cache import writing_to_cache
from tandem.artifacts.hub_errors import hub_errors
from tandem.artifacts.hub_files import HubFile, HubListing
from tandem.artifacts.hub_reference import HubReference
from tandem.core.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

DEFAULT_ENDPOINT = "https://huggingface.co"
COMMIT = re.compile(r"[0-9a-f]{40,64}")


def list_files(reference: HubReference) -> HubListing:
    """What the repository holds now. Raises `ConfigError`."""
    with hub_errors(reference, _endpoint()):
        info = HfApi(endpoint=_endpoint()).model_info(
            reference.repo, revision=reference.revision, files_metadata=True
        )
    files = {
        each.rfilename: HubFile(
            name=each.rfilename,
            size=each.size or 0,
            sha256=each.lfs.sha256 if each.lfs else None,
            blob_id=each.blob_id,
        )
        for each in info.siblings or ()
        if "/" not in each.rfilename
    }
    if not info.sha or not COMMIT.fullmatch(info.sha):
        raise ConfigError(f"the hub does not say which commit {reference} is: check HF_ENDPOINT")
    return HubListing(reference, info.sha, files)


def fetch(listing: HubListing, file: HubFile, part: Path, on_bytes: Callable[[int], None]) -> None:
    """Append to `part` what it lacks of a file. Tells of each piece by its number of bytes, and by
    a negative one of what the hub sends again. Raises `ConfigError`."""
    url = hf_hub_url(
        listing.reference.repo, file.name, revision=listing.commit, endpoint=_endpoint()
    )
    with (
        writing_to_cache(),
        CacheFile(FileIO(part, "ab")) as target,
        hub_errors(listing.reference, _endpoint()),
    ):
        http_get(
            url,
            target,
            resume_size=target.tell(),
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.name,
            # A class, the library says; it only calls it. In the place of its own bar.
            tqdm_class=cast(Any, lambda **_: nullcontext(SimpleNamespace(update=on_bytes))),
        )


class CacheFile(BufferedWriter):
    """A file in the cache. That it cannot be written is no failure of the hub."""

    def write(self, data: ReadableBuffer, /) -> int:
        with writing_to_cache():
            return super().write(data)


def _endpoint() -> str:
    # The library reads it only once, when it is imported.
    return (os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
