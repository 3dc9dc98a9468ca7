"""Clients of Tandem's gRPC API, for programs with and without an event loop."""

from tandem.client.async_client import AsyncClient, AsyncCompletionStream
from tandem.client.client import Client, CompletionStream
from tandem.client.completion import (
    CompletedChoice,
    Completion,
    Delta,
    LikelyToken,
    PromptToken,
    ScoredToken,
    ServedBy,
    ToolCall,
    ToolCallDelta,
)
from tandem.client.connection import Model
from tandem.client.requests import GenerateArguments, Message, TokenizeArguments

__all__ = [
    "AsyncClient",
    "AsyncCompletionStream",
    "Client",
    "CompletedChoice",
    "Completion",
    "CompletionStream",
    "Delta",
    "GenerateArguments",
    "LikelyToken",
    "Message",
    "Model",
    "PromptToken",
    "ScoredToken",
    "ServedBy",
    "TokenizeArguments",
    "ToolCall",
    "ToolCallDelta",
]
