"""Who the services are to each other: mutual TLS, with a certificate for each role.

A certificate names a role and no host, since workers come and go and have addresses as these fall.
Whoever opens a channel checks that the server has the role that is expected there; whoever serves,
that the caller's certificate is of the same authority (TLS sees to that) and that its role may do
what it asks for (`require_role`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import grpc

from tandem.core.errors import PermissionDenied
from tandem.core.worker import WorkerRole

# Of gRPC's `auth_context`.
_SECURITY, _NO_SECURITY = "transport_security_type", b"insecure"
_ALTERNATIVE_NAME = "x509_subject_alternative_name"


class Role(StrEnum):
    """What a process is to the others."""

    GATEWAY = "gateway"
    PREFILL = "prefill"
    DECODE = "decode"

    @property
    def certified_name(self) -> str:
        """How a certificate says it, as a DNS name that no name server will ever know."""
        return f"{self}.tandem.internal"


@dataclass(frozen=True, slots=True)
class ChannelTls:
    """What a channel needs to prove who opens it, and to check who is at its other end: a role, or
    if None who the address says."""

    credentials: grpc.ChannelCredentials
    server: Role | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """A process's certificate, its key, and the authority that all certificates must be of: PEM."""

    authority: bytes
    certificate: bytes
    key: bytes = field(repr=False)

    def towards(self, server: Role) -> ChannelTls:
        """For channels to servers of a role."""
        credentials = grpc.ssl_channel_credentials(self.authority, self.key, self.certificate)
        return ChannelTls(credentials, server)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Of a server that talks to none without a certificate."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)], self.authority, require_client_auth=True
        )


def towards_worker(identity: Identity | None, role: WorkerRole) -> ChannelTls | None:
    """For channels to workers of a role; None without TLS."""
    return identity.towards(Role[role.name]) if identity else None


def require_role(context: grpc.aio.ServicerContext[Any, Any], role: Role) -> None:
    """Raise `PermissionDenied` unless the caller's certificate says that it has this role. A server
    without TLS knows nothing of its callers, and lets all of them do all."""
    peer = context.auth_context()
    if _NO_SECURITY in peer.get(_SECURITY, ()):
        return
    if role.certified_name.encode() not in peer.get(_ALTERNATIVE_NAME, ()):
        raise PermissionDenied(f"only a {role} may ask for this")
