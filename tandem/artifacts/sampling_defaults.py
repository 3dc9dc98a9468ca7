"""How a model's author would have it sampled: what its `generation_config.json` says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tandem.artifacts.json_object import JsonObject, read_json_object
from tandem.core.errors import ConfigError, InvalidRequest
from tandem.core.sampling_params import SamplingParams


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """For requests that do not say; None where the author does not, either. No answer has more than
    `max_tokens`."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = None

    @classmethod
    def read(cls, folder: Path) -> SamplingDefaults:
        """As vLLM reads them: the numbers count, whatever `do_sample` says. Raises `ConfigError`
        for what cannot be sampled with."""
        path = folder / "generation_config.json"
        if not path.exists():
            return cls()
        fields = read_json_object(path)
        has_top_k, has_limit = fields.has("top_k"), fields.has("max_new_tokens")
        defaults = cls(
            temperature=_number(fields, "temperature"),
            top_p=_number(fields, "top_p"),
            # -1 for all, as 0.
            top_k=max(0, fields.integer("top_k")) if has_top_k else None,
            min_p=_number(fields, "min_p"),
            repetition_penalty=_number(fields, "repetition_penalty"),
            max_tokens=fields.integer("max_new_tokens") if has_limit else None,
        )
        defaults._check(path)
        return defaults

    def _check(self, path: Path) -> None:
        given = {name: getattr(self, name) for name in self.__slots__}
        params = {name: value for name, value in given.items() if value is not None}
        try:
            SamplingParams(**{"max_tokens": 1, "seed": 0} | params).validate()
        except InvalidRequest as error:
            raise ConfigError(
                f"{path}: {error.message}: correct it, or leave it out of account with"
                " --generation-config none",
                param="generation_config",
            ) from error


def _number(fields: JsonObject, name: str) -> float | None:
    value = fields.data.get(name)
    if value is not None and type(value) not in (int, float):
        raise fields.wrong(name, "a number")
    return value  # type: ignore[return-value]
