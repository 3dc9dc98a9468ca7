"""What the endpoints answer, for `/openapi.json` alone: the answers themselves are written by
`gateway.http.formats`, and a test holds each against these."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class PromptTokensDetails(BaseModel):
    """Of the prompt, tokens whose KV was found where it was computed."""

    cached_tokens: int


class Usage(BaseModel):
    """A prompt counts once, however many answers it has."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ServedBy(BaseModel):
    """How a choice was served. Names are empty where there was no worker; `recoveries` are how
    often it went on elsewhere, `preemptions` how often it gave up its place."""

    mode: Literal["disaggregated", "local", "none"]
    prefill_worker: str
    decode_worker: str
    kv_bytes: int
    recoveries: int
    bad_transfers: int
    preemptions: int


class AllServedBy(ServedBy):
    """Of the first choice; and of each, where there are several."""

    choices: list[ServedBy] | None = None


class ScoredToken(BaseModel):
    """A token, with its bytes: it may be half a character."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(ScoredToken):
    """And what else was likely there."""

    top_logprobs: list[ScoredToken]


class ChatLogprobs(BaseModel):
    """Of the tokens of a message."""

    content: list[ChatToken]
    refusal: None


class CompletionLogprobs(BaseModel):
    """Of the tokens of a text, an entry each. Of an echoed prompt's first token they are null."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class FunctionCall(BaseModel):
    """`arguments` are JSON, as a text."""

    name: str
    arguments: str


class Call(BaseModel):
    """Of a tool."""

    id: str
    type: Literal["function"]
    function: FunctionCall


class FunctionCallDelta(BaseModel):
    """The name comes first, and the arguments in pieces."""

    name: str | None = None
    arguments: str


class CallDelta(BaseModel):
    """A piece of a call; the first has its id and name."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallDelta


class Message(BaseModel):
    """An answer of the model's. It has no `content` if all of it is calls."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: list[Call] | None = None


class Delta(BaseModel):
    """What is new of a message."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[CallDelta] | None = Field(None, max_length=1)


ChatEnd = Literal["stop", "length", "tool_calls"]
CompletionEnd = Literal["stop", "length"]


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: ChatEnd


class ChatChunkChoice(BaseModel):
    """What is new of one answer; the last has why it ended."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: ChatEnd | None


class CompletionChoice(BaseModel):
    """One answer; of a stream what is new of it, and the last has why it ended."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: CompletionEnd | None


class Answer(BaseModel):
    """What all answers that are generated begin with."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(Answer):
    """The answer of /v1/chat/completions, whole."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    tandem: AllServedBy


class ChatCompletionChunk(Answer):
    """One event of it, streamed. `usage` is there with `stream_options`: null, but in the last
    chunk, which has no choices; or in each, with `continuous_usage_stats`."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    tandem: ServedBy | None = None


class Completion(Answer):
    """The answer of /v1/completions, whole."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage
    tandem: AllServedBy


class CompletionChunk(Answer):
    """One event of it, streamed, as of chat."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | None = None
    tandem: ServedBy | None = None


class Tokenized(BaseModel):
    """The answer of /tokenize; `token_strs` with `return_token_strs`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(BaseModel):
    """The answer of /detokenize."""

    prompt: str


class Model(BaseModel):
    """A name that requests may have in `model`."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


class Status(BaseModel):
    """Well."""

    status: Literal["ok"]


class Health(Status):
    """`ready` is what `/ready` says."""

    ready: bool
