"""Fields of the API that are not served yet: never ignored in silence."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from tandem.core.errors import InvalidRequest

log = structlog.get_logger(__name__)

MAX_NAMES_LOGGED = 16
MAX_NAME_CHARS = 64

# Each with the values that ask for nothing. None asks for nothing anywhere.
UNSERVED: Mapping[str, tuple[object, ...]] = {
    "allowed_token_ids": ([],),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "cache_salt": (),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "priority": (0,),
    "prompt_logprobs": (),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
    "use_beam_search": (False,),
}


def check_extra_fields(extra: Mapping[str, object]) -> None:
    """Refuse what is known and not served, with `InvalidRequest`; warn of what is not known."""
    for name, value in extra.items():
        if name in UNSERVED and value is not None and value not in UNSERVED[name]:
            raise InvalidRequest(f"{name} is not supported yet", param=name)
    unknown = [name[:MAX_NAME_CHARS] for name in extra if name not in UNSERVED]
    if unknown:
        log.warning("unknown_request_fields", names=unknown[:MAX_NAMES_LOGGED], num=len(unknown))
