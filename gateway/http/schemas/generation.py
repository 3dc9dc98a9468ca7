"""What both endpoints that generate take."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from gateway.http.schemas.base import Body, at_most
from gateway.http.schemas.structured import ResponseFormat, StructuredOutputs, read_grammar
from gateway.http.unserved import check_extra_fields
from gateway.limits import DEFAULT_MODEL, MAX_STOPS
from tandem.core.errors import InvalidRequest
from tandem.core.sampling_params import MAX_LOGIT_BIAS, MAX_STOP_TOKEN_IDS

MAX_ID_DIGITS = 10


LogitBias = Annotated[dict[str, float], Field(max_length=MAX_LOGIT_BIAS), at_most(MAX_LOGIT_BIAS)]


class StreamOptions(Body):
    """How to stream. `continuous_usage_stats`: each chunk has the usage so far, and tokens whose
    text is held back make one too."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class GenerationBody(Body):
    """Fields of OpenAI's API, and vLLM's extensions from `top_k` on. `timeout` is LiteLLM's: in
    seconds, from when the request is read to its end."""

    model: str | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: LogitBias | None = None
    seed: int | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    min_tokens: int | None = None
    stop_token_ids: (
        Annotated[list[int], Field(max_length=MAX_STOP_TOKEN_IDS, fail_fast=True)] | None
    ) = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    skip_special_tokens: bool | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: str | dict[str, Any] | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Field(fail_fast=True)] | None = None
    guided_grammar: str | None = None
    priority: int | None = None
    timeout: float | None = None
    cache_salt: str | None = None
    request_id: str | None = None

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def continuous_usage(self) -> bool:
        """Whether each chunk of a stream has the usage so far."""
        return self.include_usage and bool(
            self.stream_options and self.stream_options.continuous_usage_stats
        )

    def common_fields(self) -> dict[str, Any]:
        """Those of a `GenerationRequest`. Raises `InvalidRequest`."""
        self._check()
        newer = self.max_completion_tokens is not None
        param, grammar = read_grammar(
            self.response_format,
            self.structured_outputs,
            guided_json=self.guided_json,
            guided_regex=self.guided_regex,
            guided_choice=self.guided_choice,
            guided_grammar=self.guided_grammar,
        )
        return {
            "model": self.model or DEFAULT_MODEL,
            "request_id": self.request_id or "",
            "priority": self.priority or 0,
            "timeout_s": self.timeout,
            "num_choices": 1 if self.n is None else self.n,
            "max_tokens": self.max_completion_tokens if newer else self.max_tokens,
            "max_tokens_param": "max_completion_tokens" if newer else "max_tokens",
            "min_tokens": self.min_tokens or 0,
            "temperature": self.temperature,
            "top_p": self.top_p,
            # vLLM's clients say -1 for all.
            "top_k": 0 if self.top_k == -1 else self.top_k,
            "min_p": self.min_p,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "repetition_penalty": self.repetition_penalty,
            "logit_bias": _read_logit_bias(self.logit_bias or {}),
            "seed": self.seed,
            "stop": (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
            "stop_token_ids": tuple(self.stop_token_ids or ()),
            "include_stop": bool(self.include_stop_str_in_output),
            "ignore_eos": bool(self.ignore_eos),
            "skip_special_tokens": self.skip_special_tokens is not False,
            "cache_salt": self.cache_salt or "",
            "grammar": grammar,
            "grammar_param": param,
        }

    def _check(self) -> None:
        """What types do not say."""
        check_extra_fields(self)
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options goes with stream", param="stream_options")


def _read_logit_bias(biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
    for key in biases:
        if not (key.isascii() and key.isdecimal() and len(key) <= MAX_ID_DIGITS):
            raise InvalidRequest("logit_bias: the keys are token ids", param="logit_bias")
    by_id = {int(key): bias for key, bias in biases.items()}
    return tuple(by_id.items())
