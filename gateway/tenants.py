"""Who shares the workers: tenants, their weights and their quotas.

Without a file of them there is one tenant, `default`. Which one a request is of is found in one
place, `gateway/access.py`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from tandem.core.errors import ConfigError
from tandem.wire.metadata import TENANT_NAME

DEFAULT_TENANT = "default"


class Tenant(BaseModel):
    """A tenant's share of the workers is its `weight` among those of all that want them just then.

    It has at most `max_requests` answers in flight, that is, being read, queued or running, calls
    among them that only tokenise; and at most `max_tokens_in_flight` tokens: of each answer that is
    queued or runs, its prompt's and its `max_tokens`. Where that is not given it is what
    the limit has for it, at the most: one answer may then have all of it.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    max_requests: int | None = Field(None, ge=1)
    max_tokens_in_flight: int | None = Field(None, ge=1)


Tenants = Mapping[str, Tenant]
"""By name. `DEFAULT_TENANT` is always there."""

ONE_TENANT: Tenants = {DEFAULT_TENANT: Tenant()}


def read_tenants(path: Path) -> Tenants:
    """Tenants from a TOML file of one table each, headed by the tenant's name. Raises
    `ConfigError`."""
    try:
        tables = tomllib.loads(path.read_text("utf-8"))
        tenants = TypeAdapter(dict[str, Tenant]).validate_python(tables)
    except OSError as error:
        raise _config_error(path, f"cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _config_error(path, f"{where}: {first['msg']}") from None
    except ValueError as error:
        raise _config_error(path, f"is not TOML: {error}") from None
    for name in tenants:
        if not TENANT_NAME.fullmatch(name):
            raise _config_error(
                path, f"{name!a}: a name has 1 to 64 ASCII letters, digits and . _ -"
            )
    return {**ONE_TENANT, **tenants}


def _config_error(path: Path, what: str) -> ConfigError:
    return ConfigError(f"{path} {what}", param="tenants")
