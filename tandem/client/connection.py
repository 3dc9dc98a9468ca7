"""What the two clients' connections have in common."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import cast

import grpc

from tandem.core.address import parse_address
from tandem.core.errors import ConfigError, InvalidRequest, Unavailable
from tandem.v1 import inference_pb2
from tandem.wire.metadata import API_KEY_VARIABLE, AUTHORIZATION, TENANT_KEY
from tandem.wire.status import to_tandem_error
from tandem.wire.tls import ChannelTls

DEFAULT_ADDRESS = "127.0.0.1:50050"
ADDRESS_VARIABLE = "TANDEM_ADDRESS"
CLOSED = "the client is closed"
# A hundred years: what is longer is no limit. Beyond gRPC's clock it would be over at once.
MAX_TIMEOUT_S = 100 * 365 * 86_400.0

CallMetadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A served model. `max_model_len` is the most tokens of prompt and answer together."""

    id: str
    max_model_len: int


def resolve_address(address: str | None) -> str:
    """The address given, or that of `TANDEM_ADDRESS`, or a gateway on this machine. Raises
    `ConfigError` for what is none."""
    text = address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    return str(parse_address(text, "address"))


def call_metadata(*, tenant: str | None = None, api_key: str | None = None) -> CallMetadata:
    """What goes with every call: whose it is, and the key given or that of `TANDEM_API_KEY`, if
    there is one. Raises `InvalidRequest` for what cannot be sent."""
    metadata = []
    if tenant is not None:
        metadata.append((TENANT_KEY, _sendable(tenant, "a tenant's name", "tenant")))
    if key := api_key or os.environ.get(API_KEY_VARIABLE):
        metadata.append((AUTHORIZATION, f"Bearer {_sendable(key, 'an API key', 'api_key')}"))
    return tuple(metadata)


def call_timeout(timeout: float | None) -> float | None:
    """A call's, in gRPC's terms. Raises `InvalidRequest` for what is no number."""
    if timeout is None or timeout > MAX_TIMEOUT_S:
        return None
    if isnan(timeout):
        raise InvalidRequest("timeout must be a number", param="timeout")
    return timeout


def _sendable(text: str, what: str, param: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise InvalidRequest(f"{what} is of ASCII characters", param=param)
    return text


def read_models(response: inference_pb2.ListModelsResponse) -> list[Model]:
    return [Model(model.id, model.max_model_len) for model in response.models]


def channel_tls(tls: bool | Path) -> ChannelTls | None:
    """What a client's `tls` asks for: none, the system's authorities, or those of a file, as PEM.
    Raises `ConfigError` for a file that has none."""
    if tls is False:
        return None
    roots = _system_roots() if tls is True else _roots_of(Path(tls))
    return ChannelTls(grpc.ssl_channel_credentials(roots))


def _system_roots() -> bytes | None:
    """None, gRPC's own, for a system without a file of them."""
    certificates = ssl.create_default_context().get_ca_certs(binary_form=True)
    return "".join(map(ssl.DER_cert_to_PEM_cert, certificates)).encode() or None


def _roots_of(path: Path) -> bytes:
    try:
        # gRPC would say of a file without certificates that nobody is there.
        ssl.create_default_context(cafile=path)
        return path.read_bytes()
    except ssl.SSLError:
        raise ConfigError(f"{path} is no file of certificates", param="tls") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", param="tls") from None


@contextmanager
def translated_errors() -> Iterator[None]:
    """Whatever gRPC raises within is raised as a `TandemError`."""
    try:
        yield
    except grpc.RpcError as error:
        # Whoever does not know the call is no gateway: a worker, say, whose port was taken for one.
        code = cast(grpc.Call, error).code()
        otherwise = Unavailable if code is grpc.StatusCode.UNIMPLEMENTED else None
        raise to_tandem_error(error, otherwise, in_full=True) from error
