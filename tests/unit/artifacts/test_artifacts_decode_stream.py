"""The text of an answer goes on from its prompt's, also where the decoder drops a leading space."""

from __future__ import annotations

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st
from llama_tokenizer import END, ID_OF, START, bytes_of, llama_tokenizer

from tandem.artifacts.decode_stream import MAX_HELD
from tandem.artifacts.resolve import resolve
from tandem.artifacts.tokenizer import Tokenizer

MOCK = resolve("mock").tokenizer()
LLAMA = llama_tokenizer()
A, AB, BROKEN = ID_OF["▁a"], ID_OF["▁ab"], 3 + 0xA9


def told(
    tokenizer: Tokenizer, prompt: list[int], answer: list[int], skip_special_tokens: bool = True
) -> str:
    stream = tokenizer.decode_stream(skip_special_tokens, prompt=prompt)
    return "".join([*map(stream.push, answer), stream.flush()])


def behind(
    tokenizer: Tokenizer, prompt: list[int], answer: list[int], skip_special_tokens: bool = True
) -> str:
    """By definition."""
    whole = tokenizer.decode(prompt + answer, skip_special_tokens)
    return whole[len(tokenizer.decode(prompt, skip_special_tokens)) :]


tokens = st.sampled_from([START, END, *ID_OF.values()]).map(lambda each: [each])
texts = st.lists(tokens | st.sampled_from("é€🙂\n ").map(bytes_of), max_size=8).map(
    lambda parts: [*chain.from_iterable(parts)]
)


@given(texts, texts, st.booleans())
def test_an_answer_is_what_its_tokens_add_to_the_prompts_text(
    prompt: list[int], answer: list[int], skip: bool
) -> None:
    assert told(LLAMA, prompt, answer, skip) == behind(LLAMA, prompt, answer, skip)


@given(
    st.lists(st.integers(0, 259)),
    st.lists(st.integers(0, 259), max_size=MAX_HELD - 1),
    st.booleans(),
)
def test_of_a_byte_level_tokenizer_the_prompt_changes_nothing(
    prompt: list[int], answer: list[int], skip: bool
) -> None:
    assert told(MOCK, prompt, answer, skip) == MOCK.decode(answer, skip)


def test_the_first_words_space_is_the_answers() -> None:
    prompt = [START, *LLAMA.encode("ab")]
    assert told(LLAMA, prompt, [AB, A]) == " ab a"
    # Behind special tokens too; but where these are all, and show nothing, the text begins.
    assert told(LLAMA, [*prompt, END], [AB, A]) == " ab a"
    assert told(LLAMA, [START], [AB, A]) == told(LLAMA, [], [AB, A]) == "ab a"
    assert told(LLAMA, [START], [AB, A], skip_special_tokens=False) == " ab a"


def test_a_prompt_that_ends_within_a_character_is_not_told_again() -> None:
    prompt = [*LLAMA.encode("ab"), bytes_of("é")[0]]
    assert told(LLAMA, prompt, [AB, A]) == " ab a"
    assert told(LLAMA, prompt, [bytes_of("é")[1], AB]) == "� ab"
    assert told(LLAMA, [BROKEN] * 100, [AB, A]) == " ab a"


def test_the_words_behind_what_was_let_go_keep_their_spaces() -> None:
    # Too many tokens that make no character, at the beginning or within a text.
    for prompt in ([], [AB]):
        assert told(LLAMA, prompt, [BROKEN] * MAX_HELD + [AB, A]) == "�" * MAX_HELD + " ab a"
    # A character that was shown, and is part of an invalid run.
    broken = [*bytes_of("é"), BROKEN]
    assert told(LLAMA, [], [A, *broken, A, *broken, AB]) == "aé� aé� ab"


def test_what_is_held_at_the_end_keeps_its_space() -> None:
    assert told(LLAMA, [A], [ID_OF["▁�"]]) == " �"
    assert told(LLAMA, [], [A, ID_OF["▁�"]]) == "a �"
    assert told(LLAMA, [], [ID_OF["▁�"]]) == "�"
    stream = LLAMA.decode_stream()
    assert [stream.push(A), stream.flush(), stream.push(AB)] == ["a", "", " ab"]
