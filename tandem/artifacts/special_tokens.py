"""The special tokens that a model's folder names: what its texts begin and end with."""

from __future__ import annotations

import json
import operator
import re
from pathlib import Path

from tandem.artifacts.json_object import JsonObject, read_json_object

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
OLDER_FILE = "special_tokens_map.json"
# An array by this name is no token of a vocabulary, and within a text its quotes are escaped.
ADDED_TOKENS = re.compile(r'"added_tokens"\s*:\s*(?=\[)')


def special_tokens(folder: Path) -> dict[str, str]:
    """The text of each that `tokenizer_config.json` names, or the older `special_tokens_map.json`,
    which as in transformers is for a config without `added_tokens_decoder`. Raises
    `ConfigError`."""
    config = _read(folder / "tokenizer_config.json")
    older = JsonObject({}, "") if config.has("added_tokens_decoder") else _read(folder / OLDER_FILE)
    return {
        name: _text(each, name)
        for each in (config, older)
        for name in SPECIAL_TOKENS
        if each.has(name)
    }


def eos_token_id(folder: Path) -> int | None:
    """The id of the `eos_token`, if one is named and `tokenizer.json` has it. Raises
    `ConfigError`."""
    token = special_tokens(folder).get("eos_token")
    return None if token is None else _added_tokens(folder / "tokenizer.json").get(token)


def _read(path: Path) -> JsonObject:
    return read_json_object(path) if path.exists() else JsonObject({}, "")


def _text(config: JsonObject, name: str) -> str:
    """Each is a string, or an object that has it as its `content`."""
    is_object = isinstance(config.data[name], dict)
    return config.object(name).text("content") if is_object else config.text(name)


def _added_tokens(path: Path) -> dict[str, int]:
    """What a tokenizer has besides its vocabulary, which is not read: it takes a tenth of a second
    at each start. Nothing of a file that is damaged, as the tokenizer says when it is made."""
    try:
        text = path.read_text(encoding="utf-8")
        found = ADDED_TOKENS.search(text)
        tokens, _ = json.JSONDecoder().raw_decode(text, found.end()) if found else ([], 0)
        return {token["content"]: operator.index(token["id"]) for token in tokens}
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return {}
