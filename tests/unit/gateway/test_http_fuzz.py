"""Whatever the fields hold, the answer is an answer or a refusal, never a failure."""

from __future__ import annotations

import json
from typing import Any

from http_client import CHAT_PATH, TEXT_PATH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.http.schemas.chat import ChatBody
from gateway.http.schemas.completion import CompletionBody

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["", "a", "auto", "required", "text", "json_object", "function", "user", "tool"]
    )
    | st.text(max_size=8)
)
KEYS = ["type", "function", "name", "arguments", "parameters", "schema", "json_schema", "json"]
KEYS += ["regex", "choice", "grammar", "role", "content", "tool_calls", "tool_call_id", "id", "1"]
values = st.recursive(
    scalars,
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), children, max_size=4)
    ),
    max_leaves=12,
)
functions = st.fixed_dictionaries(
    {"name": st.sampled_from(["f", "g", "a b"])},
    optional={"description": scalars, "parameters": values, "strict": scalars},
)
tools = st.lists(st.fixed_dictionaries({"type": st.just("function"), "function": functions}))
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "tool", "developer"])},
        optional={
            "content": values,
            "tool_calls": values,
            "tool_call_id": scalars,
            "name": scalars,
        },
    ),
    max_size=3,
)
FIELDS = sorted({*ChatBody.model_fields, *CompletionBody.model_fields, "suffix", "functions"})
SPECIAL = {
    "messages": messages,
    "tools": tools | values,
    "stream": st.booleans(),
    "max_tokens": st.integers(0, 20) | values,
    "n": st.integers(0, 4) | values,
}


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """A few fields only: of many, one is wrong for sure, and the others never matter."""
    names = draw(st.sets(st.sampled_from(FIELDS), max_size=4))
    fields = {name: draw(SPECIAL.get(name, values)) for name in sorted(names)}
    sound = {"prompt": "Hi", "messages": [{"role": "user", "content": "Hi"}]}
    return fields | sound if draw(st.booleans()) else sound | fields


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from([CHAT_PATH, TEXT_PATH]), bodies())
async def test_no_body_makes_it_fail(client, logs, path, body):
    response = await client.post(path, json=body)
    assert response.status_code in (200, 400, 404, 504), response.text
    if response.status_code == 504:
        assert body["timeout"] < 1
    elif response.status_code != 200:
        error: dict[str, Any] = response.json()["error"]
        assert error["message"] and error["type"] == "invalid_request_error"
    elif body.get("stream"):
        assert response.text.endswith("data: [DONE]\n\n")
        assert '"error"' not in response.text
    else:
        assert json.loads(response.content)["choices"]
    assert not [entry for entry in logs if entry["log_level"] == "error"]
