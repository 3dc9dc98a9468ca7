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

    def wrap(self, choices: bytes, **more: object) -> bytes:
        """An answer or a chunk. `choices` are JSON objects with commas between them."""
        rest = b"," + orjson.dumps(more)[1:] if more else b"}"
        return b"".join((self.head, choices, b"]", rest))


def choice_json(index: int, content: bytes, logprobs: bytes, reason: str | None) -> bytes:
    """One choice: its number, what the endpoint says of it (JSON fields without the braces), and
    how it ended."""
    ending = b'"%s"' % reason.encode() if reason else b"null"
    return b'{"index":%d,%s,"logprobs":%s,"finish_reason":%s}' % (index, content, logprobs, ending)
