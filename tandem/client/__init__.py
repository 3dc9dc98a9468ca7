"""Clients of Tandem's gRPC API, for programs with and without an event loop."""

from tandem.client.async_client import AsyncClient, AsyncCompletionStream
from tandem.client.client import Client, CompletionStream
from tandem.client.completion import Completion, Delta, ServedBy
from tandem.client.connection import Model
from tandem.client.requests import GenerateArguments, Message

__all__ = [
    "AsyncClient",
    "AsyncCompletionStream",
    "Client",
    "Completion",
    "CompletionStream",
    "Delta",
    "GenerateArguments",
    "Message",
    "Model",
    "ServedBy",
]
