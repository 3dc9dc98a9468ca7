"""Fields of the API that are not served: never ignored in silence where they ask for something."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from tandem.core.errors import InvalidRequest

log = structlog.get_logger(__name__)

MAX_NAMES_LOGGED = 16
MAX_NAME_CHARS = 64

# Each with the values that ask for nothing. None asks for nothing anywhere. Those that an endpoint
# does serve are fields of its body, and never get here.
UNSERVED: Mapping[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
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
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "truncate_prompt_tokens": (),
    "use_beam_search": (False,),
    "web_search_options": (),
}
HINTS: Mapping[str, str] = {
    "function_call": ": use tool_choice",
    "functions": ": use tools",
    "tools": " here: use /v1/chat/completions",
    "prompt_logprobs": ": the log-probabilities of prompt tokens are not computed",
}
# What OpenAI's own service does with a request, apart from answering it, or how soon. Nothing here
# depends on it.
WITHOUT_EFFECT = frozenset(
    {
        "metadata",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)


def check_extra_fields(extra: Mapping[str, object]) -> None:
    """Refuse what is known and not served, with `InvalidRequest`; warn of what is not known."""
    for name, value in extra.items():
        if name in UNSERVED and value is not None and value not in UNSERVED[name]:
            raise InvalidRequest(f"{name} is not served{HINTS.get(name, '')}", param=name)
    unknown = [name[:MAX_NAME_CHARS] for name in extra if _is_unknown(name)]
    if unknown:
        log.warning("unknown_request_fields", names=unknown[:MAX_NAMES_LOGGED], num=len(unknown))


def _is_unknown(name: str) -> bool:
    return name not in UNSERVED and name not in WITHOUT_EFFECT
