"""What can stop a transfer from the hub, in words that say what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tandem.artifacts.hub_reference import HubReference
from tandem.core.errors import ConfigError

TOKEN_HINT = "set HF_TOKEN to a token of yours (huggingface.co/settings/tokens)"  # noqa: S105 - none
# What the library stumbles over when something else than a hub answers.
NO_HUB = (ValueError, KeyError, TypeError, AttributeError)
FAILURES = (httpx2.HTTPError, httpx2.InvalidURL, OSError, ImportError, *NO_HUB)


@contextmanager
def hub_errors(reference: HubReference, endpoint: str) -> Iterator[None]:
    """Turn whatever the context fails with into a `ConfigError`."""
    try:
        yield
    except FAILURES as error:
        raise ConfigError(_message(error, reference, endpoint), param="model") from error


def _message(error: Exception, reference: HubReference, endpoint: str) -> str:  # noqa: PLR0911
    match error:
        case GatedRepoError():
            return f"{reference.repo} is gated: accept its terms on its page, and {TOKEN_HINT}"
        case RepositoryNotFoundError():
            return (
                f"there is neither a folder {str(reference)!r} here nor such a model at {endpoint};"
                f" if it is private, {TOKEN_HINT}"
            )
        case RevisionNotFoundError():
            return f"{reference.repo} has no revision {reference.revision!r}"
        case HfHubHTTPError():
            return _refusal(error.response.status_code, reference, endpoint)
        case OfflineModeIsEnabled():
            return (
                f"{reference} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it: unset"
                " it, or give a folder or a .gguf file"
            )
        case HFValidationError():
            return f"{reference.repo!r} cannot be a model's name on the hub"
        case httpx2.HTTPError():
            return (
                f"there is no folder {str(reference)!r} here, and {endpoint} cannot be reached"
                f" ({_reason(error)}): check the network (HTTPS_PROXY is used if it is set) and"
                " pull again, which goes on where it stopped; without a network give a folder or a"
                " .gguf file"
            )
        # Of a proxy of a kind that the library has not installed, or does not know.
        case ImportError() | ValueError() if "proxy" in str(error).lower():
            return f"the proxy of the environment cannot be used: {_reason(error)}"
        case OSError():
            return f"the download of {reference} stopped ({_reason(error)}): pull again to go on"
    return f"{endpoint} does not answer as the hub does ({_reason(error)}): check HF_ENDPOINT"


def _refusal(status: int, reference: HubReference, endpoint: str) -> str:
    if status in (401, 403):
        return f"{endpoint} refuses {reference} (status {status}): {TOKEN_HINT}"
    return f"{endpoint} answers with status {status} for {reference}: try again later"


def _reason(error: Exception) -> str:
    first, *_ = str(error).splitlines() or [type(error).__name__]
    return first
