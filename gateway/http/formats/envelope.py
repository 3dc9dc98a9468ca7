"""What stands around the choices of one answer."""

from __future__ import annotations

import orjson

from tandem.core.installation import own_version

# Changes with the program, as OpenAI's does with theirs.
FINGERPRINT = f"tandem-{own_version()}"


class Envelope:
    """The fields that an answer and each of its chunks begin with."""

    def __init__(self, answer_id: str, object_name: str, created: int, model: str) -> None:
        fields = {
            "id": answer_id,
            "object": object_name,
            "created": created,
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self.head = orjson.dumps(fields)[:-1] + b',"choices":['


def after_choices(**more: object) -> bytes:
    """What follows an answer's or a chunk's choices: these fields, of which there is one."""
    return b"]," + orjson.dumps(more)[1:]


def choice_json(index: int, content: bytes, reason: str | None) -> tuple[bytes, bytes]:
    """One choice, as what stands before the value of its `logprobs` and what stands behind it: its
    number, what the endpoint says of it (JSON fields without the braces), and how it ended."""
    ending = b',"finish_reason":"%s"}' % reason.encode() if reason else b',"finish_reason":null}'
    return b'{"index":%d,%s,"logprobs":' % (index, content), ending
