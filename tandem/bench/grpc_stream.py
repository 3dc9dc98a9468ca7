"""One streamed answer by Tandem's gRPC API."""

from __future__ import annotations

from time import perf_counter

from tandem.bench.answer import Answer
from tandem.bench.workload import Prompt
from tandem.client import AsyncClient, Completion, GenerateArguments, Message
from tandem.core.errors import TandemError, Unavailable


async def generate(
    client: AsyncClient, model: str, answer: Answer, *, is_chat: bool, ignore_eos: bool
) -> None:
    """Ask, and wait for the end. Whatever goes wrong is told in the answer."""
    answer.may_be_shorter = not ignore_eos
    arguments = GenerateArguments(
        model=model,
        max_tokens=answer.prompt.num_output,
        temperature=0.0,
        ignore_eos=ignore_eos,
    )
    _add_prompt(arguments, answer.prompt, is_chat)
    answer.sent_s = perf_counter()
    try:
        async with client.stream(**arguments) as stream:
            async for delta in stream:
                answer.note(perf_counter(), answer.num_tokens + len(delta.token_ids))
            _tell(answer, stream.completion)
    except TandemError as error:
        answer.found_nobody = isinstance(error, Unavailable)
        answer.error = f"{error.reason}: {error.message}"


def _add_prompt(arguments: GenerateArguments, prompt: Prompt, is_chat: bool) -> None:
    if is_chat:
        arguments["messages"] = [Message(role="user", content=prompt.text)]
    elif prompt.text:
        arguments["prompt"] = prompt.text
    else:
        arguments["token_ids"] = prompt.token_ids


def _tell(answer: Answer, completion: Completion) -> None:
    served_by = completion.served_by
    answer.told = {
        "prompt_tokens": completion.num_prompt_tokens,
        "cached_tokens": served_by.num_cached_tokens,
        "mode": served_by.mode,
        "prefill_worker": served_by.prefill_worker,
        "decode_worker": served_by.decode_worker,
        "kv_bytes": served_by.kv_bytes,
        "recoveries": served_by.num_losses,
        "bad_transfers": served_by.num_bad_transfers,
        "preemptions": served_by.num_preemptions,
    }
