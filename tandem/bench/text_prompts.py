"""Prompts as text, for servers that take no token ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from tandem.bench.workload import Prompt
from tandem.core.errors import ConfigError

# A word with the space before it, in the alphabet of byte-level and of SentencePiece vocabularies.
SPACES = "Ġ▁"
# Common enough to be a token each in most vocabularies.
PLAIN = """
time people way water day part sound work place year back thing name man world line side
house page land home hand school night point city tree road fire ship rock room north south
music river field group state king town wood war star table box heart dark sun law mind bird
paper game stone science rule power wind voice plane machine island letter answer
""".split()  # noqa: SIM905 - a list of them would be a page


class Texts(Protocol):
    """Makes prompts of token ids into prompts of text."""

    def worded(self, prompt: Prompt) -> Prompt:
        """The same with a text."""
        ...


class Words:
    """Text of words that are a token each, so that it has a known number of tokens."""

    def __init__(self, tokenizer_file: Path) -> None:
        """Raises `ConfigError` if the file is no tokenizer, or has no such words."""
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_file))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ConfigError(f"{tokenizer_file} is no tokenizer.json") from error
        self._ids = sorted(
            token_id
            for token, token_id in self._tokenizer.get_vocab().items()
            if token[0] in SPACES and token[1:].isascii() and token[1:].isalpha()
        )
        if not self._ids:
            raise ConfigError(f"{tokenizer_file} has no words: use token ids")

    def worded(self, prompt: Prompt) -> Prompt:
        """Token ids become those of the text.

        Raises `ConfigError` if the tokenizer reads its own words in another way.
        """
        ids = [self._ids[each % len(self._ids)] for each in prompt.token_ids]
        text = str(self._tokenizer.decode(ids))
        if self._tokenizer.encode(text, add_special_tokens=False).ids != ids:
            raise ConfigError("this tokenizer does not read words as it writes them: use token ids")
        return replace(prompt, token_ids=tuple(ids), text=text)


class PlainWords:
    """As many common words: how many tokens they are, only the server knows."""

    def worded(self, prompt: Prompt) -> Prompt:
        text = " ".join(PLAIN[each % len(PLAIN)] for each in prompt.token_ids)
        return replace(prompt, text=text)
