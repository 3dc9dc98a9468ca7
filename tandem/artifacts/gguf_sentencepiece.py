"""SentencePiece BPE, the tokenizer that GGUF calls `llama`: Llama 2, Mistral."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from gguf import TokenType
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from tandem.artifacts.gguf_vocabulary import GgufVocabulary
from tandem.core.errors import ConfigError

SPACE = "▁"
# What a merge may make; the other kinds of token stand for themselves.
MERGED = (TokenType.NORMAL, TokenType.USER_DEFINED)
# The splits of one token grow with its length; words are much shorter than this.
MAX_TOKEN_CHARACTERS = 256


def sentencepiece_bpe(vocabulary: GgufVocabulary) -> Tokenizer:
    """The tokenizer of a `llama` vocabulary: characters that it lacks become bytes. Raises
    `ConfigError`."""
    metadata = vocabulary.metadata
    prefix = metadata.flag("tokenizer.ggml.add_space_prefix", default=True)
    merges = list(_merges(vocabulary))
    unknown = vocabulary.token("unknown") if vocabulary.has("unknown") else None
    try:
        model = BPE(
            vocab=vocabulary.ids(),
            merges=merges,
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"{metadata.source}: its tokens make no tokenizer") from error
    tokenizer = Tokenizer(model)
    # The library's stubs make plain attributes of these properties.
    properties = cast(Any, tokenizer)
    properties.normalizer = _normalizer(prefix)
    properties.decoder = _decoder(prefix)
    vocabulary.add_to(tokenizer)
    if metadata.flag("tokenizer.ggml.add_bos_token", default=True):
        properties.post_processor = vocabulary.bos_template()
    return tokenizer


def _merges(vocabulary: GgufVocabulary) -> Iterator[tuple[str, str]]:
    """Every way to make a token of two others, the tokens with the best scores first: the order in
    which SentencePiece joins neighbours. Of one token's, in the order in which Hugging Face's
    converter has them: by the ids of its parts."""
    ids = vocabulary.ids()
    scores = vocabulary.metadata.numbers("tokenizer.ggml.scores")
    if len(scores) != len(vocabulary.tokens):
        raise vocabulary.metadata.wrong("tokenizer.ggml.scores", f"{len(ids)} entries")
    for token_id in sorted(range(len(scores)), key=lambda each: -scores[each]):
        token = vocabulary.tokens[token_id]
        if vocabulary.types[token_id] not in MERGED or len(token) > MAX_TOKEN_CHARACTERS:
            continue
        splits = [(token[:middle], token[middle:]) for middle in range(1, len(token))]
        known = [(left, right) for left, right in splits if left in ids and right in ids]
        yield from sorted(known, key=lambda split: (ids[split[0]], ids[split[1]]))


def _normalizer(prefix: bool) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = [normalizers.Prepend(SPACE)] if prefix else []
    return normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])


def _decoder(prefix: bool) -> decoders.Decoder:
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", left=1)] if prefix else steps)
