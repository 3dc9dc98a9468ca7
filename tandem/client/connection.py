"""What the two clients' connections have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from tandem.core.errors import InvalidRequest
from tandem.v1 import inference_pb2
from tandem.wire.metadata import TENANT_KEY
from tandem.wire.status import to_tandem_error

DEFAULT_ADDRESS = "127.0.0.1:50050"
ADDRESS_VARIABLE = "TANDEM_ADDRESS"


@dataclass(frozen=True, slots=True)
class Model:
    """A served model. `max_model_len` is the most tokens of prompt and answer together."""

    id: str
    max_model_len: int


def resolve_address(address: str | None) -> str:
    """The address given, or that of `TANDEM_ADDRESS`, or a gateway on this machine."""
    return address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS


def tenant_metadata(tenant: str | None) -> tuple[tuple[str, str], ...]:
    """What goes with every call that generates. Raises `InvalidRequest` for what is no name."""
    if tenant is None:
        return ()
    if not (tenant.isascii() and tenant.isprintable()):
        raise InvalidRequest("a tenant's name is of ASCII characters", param="tenant")
    return ((TENANT_KEY, tenant),)


def read_models(response: inference_pb2.ListModelsResponse) -> list[Model]:
    return [Model(model.id, model.max_model_len) for model in response.models]


@contextmanager
def translated_errors() -> Iterator[None]:
    """Whatever gRPC raises within is raised as a `TandemError`."""
    try:
        yield
    except grpc.RpcError as error:
        raise to_tandem_error(error) from error
