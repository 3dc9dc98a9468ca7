"""Fields of the API that are not served: never ignored in silence where they ask for something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain

import structlog

from gateway.http.schemas.base import Body, bodies_within
from tandem.core.errors import InvalidRequest

log = structlog.get_logger(__name__)

MAX_NAMES_LOGGED = 16
MAX_NAME_CHARS = 64

# Each with the values that ask for nothing. None asks for nothing anywhere. Those that an endpoint
# does serve are fields of its body, and never get here. Those of a body's own bodies have dotted
# names, all items of a list the same.
UNSERVED: Mapping[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "documents": ([],),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "logprob_token_ids": ([],),
    "logprobs": (False,),
    "messages[].audio": (),
    "messages[].function_call": ({},),
    "messages[].prefix": (False,),
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "repetition_detection": (),
    "response_format.schema": (),
    "return_prompt_text": (False,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "spaces_between_special_tokens": (True,),
    "structured_outputs.disable_additional_properties": (False,),
    "structured_outputs.disable_any_whitespace": (False,),
    "structured_outputs.structural_tag": (),
    "structured_outputs.whitespace_pattern": (),
    "suffix": ("",),
    "thinking_token_budget": (-1,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
HINTS: Mapping[str, str] = {
    "add_special_tokens": " here: a chat template writes its own",
    "chat_template_kwargs": " here: use /v1/chat/completions",
    "function_call": ": use tool_choice",
    "functions": ": use tools",
    "messages[].function_call": ": use tool_calls",
    "response_format.schema": ": use type json_schema, and json_schema.schema",
    "tools": " here: use /v1/chat/completions",
    "prompt_logprobs": ": use echo and logprobs of /v1/completions",
}
# What OpenAI's own service does with a request, apart from answering it, or how soon, what its
# answers have that clients send back, and what load tools, ours too, send for llama.cpp to whomever
# they ask. Nothing here depends on it.
WITHOUT_EFFECT = frozenset(
    {
        "messages[].annotations",
        "messages[].content[].prompt_cache_breakpoint",
        "messages[].tool_calls[].index",
        "cache_prompt",
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "stream_options.include_obfuscation",
        "timings_per_token",
        "user",
    }
)


def check_extra_fields(body: Body) -> None:
    """Refuse what is known and not served, with `InvalidRequest`; warn of what is not known."""
    unknown: set[str] = set()
    for name, value in _extra_fields([body]):
        if value is None or name in WITHOUT_EFFECT:
            continue
        if name not in UNSERVED:
            unknown.add(name)
        elif value not in UNSERVED[name]:
            # As for what is wrong with one: the field of the request that it is in.
            param = name.partition(".")[0].removesuffix("[]")
            raise InvalidRequest(f"{name} is not served{HINTS.get(name, '')}", param=param)
    if unknown:
        names = [name[:MAX_NAME_CHARS] for name in sorted(unknown)[:MAX_NAMES_LOGGED]]
        log.warning("unknown_request_fields", names=names, num=len(unknown))


def _extra_fields(bodies: Sequence[Body], prefix: str = "") -> Iterator[tuple[str, object]]:
    """What bodies, which are all of one class, do not declare, and what those within them do not,
    by dotted names."""
    for extra in [extra for each in bodies if (extra := each.model_extra)]:
        for name, value in extra.items():
            yield prefix + name, value
    for name in _fields_of_bodies(type(bodies[0])):
        values = [value for each in bodies if (value := getattr(each, name))]
        # Else it is a text or a list; asking whether it is a body takes ten times as long.
        if inner := [value for value in values if not isinstance(value, (str, list))]:
            yield from _extra_fields(inner, f"{prefix}{name}.")
        if inner := [*chain.from_iterable(value for value in values if isinstance(value, list))]:
            yield from _extra_fields(inner, f"{prefix}{name}[].")


@cache
def _fields_of_bodies(cls: type[Body]) -> tuple[str, ...]:
    """The fields that may hold bodies. A conversation may have thousands of others."""
    fields = cls.model_fields.items()
    return tuple(name for name, field in fields if any(bodies_within(field.annotation)))
