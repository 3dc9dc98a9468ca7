"""A GGUF file's vocabulary, as both kinds of tokenizer are made from it."""

from __future__ import annotations

from dataclasses import dataclass

from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, processors

from tandem.artifacts.json_object import JsonObject

ADDED = (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)


@dataclass(frozen=True, slots=True)
class GgufVocabulary:
    """`tokens` by id, each of one of gguf's `TokenType`s. Read it with `read`."""

    metadata: JsonObject
    tokens: list[str]
    types: tuple[int, ...]

    @classmethod
    def read(cls, metadata: JsonObject) -> GgufVocabulary:
        """Raises `ConfigError`."""
        tokens = metadata.texts("tokenizer.ggml.tokens")
        if len(set(tokens)) != len(tokens):
            raise metadata.wrong("tokenizer.ggml.tokens", "no token twice")
        types = metadata.integers("tokenizer.ggml.token_type")
        if len(types) != len(tokens):
            raise metadata.wrong("tokenizer.ggml.token_type", f"{len(tokens)} entries")
        return cls(metadata, tokens, types)

    def ids(self) -> dict[str, int]:
        return {token: token_id for token_id, token in enumerate(self.tokens)}

    def has(self, which: str) -> bool:
        """Whether the file names a token for a purpose: `bos`, `eos`, `unknown`, `padding`."""
        return self.metadata.has(_key(which))

    def token(self, which: str) -> str:
        """The token for a purpose. Raises `ConfigError`."""
        token_id = self.metadata.integer(_key(which))
        if not 0 <= token_id < len(self.tokens):
            raise self.metadata.wrong(_key(which), f"an id below {len(self.tokens)}")
        return self.tokens[token_id]

    def add_to(self, tokenizer: Tokenizer) -> None:
        """Have the tokenizer find special and user's tokens before anything else."""
        # They are in its model's vocabulary already, so they keep their ids.
        tokenizer.add_tokens(
            [
                AddedToken(token, special=kind != TokenType.USER_DEFINED, normalized=False)
                for token, kind in zip(self.tokens, self.types, strict=True)
                if kind in ADDED
            ]
        )

    def bos_template(self) -> processors.TemplateProcessing:
        """Puts the BOS before a text."""
        bos = self.token("bos")
        bos_id = self.metadata.integer(_key("bos"))
        return processors.TemplateProcessing(
            single=f"{bos}:0 $A:0",
            pair=f"{bos}:0 $A:0 {bos}:1 $B:1",
            special_tokens=[(bos, bos_id)],
        )


def _key(which: str) -> str:
    return f"tokenizer.ggml.{which}_token_id"
