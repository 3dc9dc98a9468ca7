"""Who may ask the gateway, and as which tenant.

Both are found from what comes with a request beside its content: HTTP headers, or gRPC metadata.
Every request is asked for its key before anything is read of it (`http/access.py`,
`grpc_access.py`), whatever it is for: what needs none is named there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.tenants import DEFAULT_TENANT, ONE_TENANT, Tenant, Tenants, read_tenants
from tandem.core.errors import ConfigError, PermissionDenied, Unauthenticated
from tandem.process.api_keys import ApiKeys, check_api_key, digest_of, read_api_keys
from tandem.wire.metadata import AUTHORIZATION, BEARER, TENANT_KEY


class Access:
    """Without `keys` all may ask, and name their tenant themselves. With them, even with none, only
    who has one may, and is its tenant."""

    def __init__(self, tenants: Tenants = ONE_TENANT, keys: ApiKeys | None = None) -> None:
        self.tenants = tenants
        self._keys = keys

    def use(self, owners: Mapping[str, str]) -> None:
        """Whose keys count from now on, by the keys' digests: tenants that are known alone."""
        self._keys = ApiKeys(owners)

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key."""
        return self._keys is None

    def tenant_of(self, headers: Mapping[str, str]) -> str:
        """Whose a request is that came with these headers, in lower case.

        Raises `Unauthenticated` (no key, or an unknown one) or `PermissionDenied` (it names
        another's tenant).
        """
        claimed = headers.get(TENANT_KEY)
        if self._keys is None:
            # To make up names gains nothing: all that are not known share what `default` has.
            return claimed if claimed and claimed in self.tenants else DEFAULT_TENANT
        tenant = self._keys.tenant_of(_bearer_key(headers))
        if tenant is None:
            raise Unauthenticated("the API key is not known here")
        if claimed not in (None, tenant):
            raise PermissionDenied(f"the API key is not of the tenant that {TENANT_KEY} names")
        return tenant

    def check_operator(self, headers: Mapping[str, str]) -> None:
        """Raise as `tenant_of`, and `PermissionDenied` for whoever may ask, but not operate: with
        keys, that is for the default tenant's alone."""
        if self.tenant_of(headers) != DEFAULT_TENANT and not self.is_open:
            raise PermissionDenied(f"this takes an API key of the tenant {DEFAULT_TENANT}")

    def check_watcher(self, headers: Mapping[str, str]) -> None:
        """Raise as `tenant_of`, and `PermissionDenied` for whoever may not watch what all do: where
        several tenants have keys, that is for operators."""
        if self._keys is not None and len(self._keys.tenants) > 1:
            self.check_operator(headers)
        else:
            self.tenant_of(headers)


@dataclass(frozen=True, slots=True)
class KeySources:
    """Where keys come from: a file of many tenants', and a key that is the default tenant's."""

    file: Path | None = None
    key: str | None = None

    def read(self) -> dict[str, str]:
        """Whose they are, by their digests. Raises `ConfigError`."""
        owners = read_api_keys(self.file) if self.file else {}
        if self.key is not None:
            check_api_key(self.key)
            owners[digest_of(self.key)] = DEFAULT_TENANT
        return owners

    @property
    def are_open(self) -> bool:
        """Whether nobody needs a key."""
        return self.file is None and self.key is None


def read_access(tenants: Path | None, sources: KeySources) -> Access:
    """Who may ask, by the file of tenants and the keys.

    Without a file of tenants each whom a key is of is one, without quota. Raises `ConfigError`.
    """
    owners = sources.read()
    keys = None if sources.are_open else ApiKeys(owners)
    if tenants is None:
        return Access({**ONE_TENANT, **{name: Tenant() for name in owners.values()}}, keys)
    known = read_tenants(tenants)
    for name in owners.values():
        if name not in known:
            raise ConfigError(f"{sources.file}: {name} is no tenant of {tenants}", param="api_keys")
    return Access(known, keys)


def _bearer_key(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get(AUTHORIZATION, "").partition(" ")
    if scheme.lower() != BEARER or not key.strip():
        raise Unauthenticated("an API key is needed: send the header `Authorization: Bearer KEY`")
    return key.strip()
