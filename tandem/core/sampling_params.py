"""How the next token is chosen, and when a sequence ends."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from tandem.core.errors import InvalidRequest
from tandem.core.grammar import Grammar

MAX_STOP_TOKEN_IDS = 64
MAX_LOGPROBS = 20
MAX_LOGIT_BIAS = 1024


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """What a worker must know to sample a sequence and to end it by itself.

    `seed` is always set: the gateway draws one where the client gave none, so that any token of any
    request can be sampled again, anywhere. `temperature` 0 is greedy. `top_k` 0 keeps all tokens,
    `min_p` those that are at least so likely as this share of the likeliest one.

    `presence_penalty` and `frequency_penalty` are OpenAI's, over the generated tokens;
    `repetition_penalty` is CTRL's (Keskar et al., 2019, section 4.1), over the prompt as well.
    `logit_bias` are (token id, added to its logit), by ascending id. Until `min_tokens` are
    generated no token is sampled that would end the sequence.

    With `logprobs` each token is reported with its log-probability and those of so many likeliest
    tokens: of the model's own distribution, before any of these parameters. With `prompt_logprobs`
    so is each token of the prompt but the first: once, with the first generated one. If that is all
    that is wanted `max_tokens` is 0: one token is sampled all the same, which is nobody's.
    """

    max_tokens: int
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    stop_token_ids: frozenset[int] = frozenset()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None

    def looks_at_own_tokens(self, num_generated: int) -> bool:
        """Whether the choice of the token behind `num_generated` ones, or of any that follows,
        depends on the sequence's others other than by the model: on which they are, or how many."""
        return bool(
            self.grammar is not None
            or num_generated < self.min_tokens
            or self.presence_penalty
            or self.frequency_penalty
            or self.repetition_penalty != 1.0
        )

    def validate(self) -> None:
        """Raise `InvalidRequest`, naming the parameter, if any value is out of its range."""
        least = 1 if self.prompt_logprobs is None else 0
        _require(self.max_tokens >= least, "max_tokens", f"must be at least {least}")
        _require(0 <= self.seed < 2**63, "seed", "must be in [0, 2**63)")
        # NaN is in no range.
        _require(0.0 <= self.temperature <= 2.0, "temperature", "must be in [0, 2]")
        _require(0.0 < self.top_p <= 1.0, "top_p", "must be in (0, 1]")
        _require(0 <= self.top_k < 2**31, "top_k", "must be 0 (all) or positive")
        _require(0.0 <= self.min_p <= 1.0, "min_p", "must be in [0, 1]")
        for name in ("presence_penalty", "frequency_penalty"):
            value = getattr(self, name)
            _require(-2.0 <= value <= 2.0, name, "must be in [-2, 2]")
        _require(0.0 < self.repetition_penalty <= 10.0, "repetition_penalty", "must be in (0, 10]")
        self._validate_lists()
        _require(
            0 <= self.min_tokens <= self.max_tokens, "min_tokens", "must be in [0, max_tokens]"
        )
        for name in ("logprobs", "prompt_logprobs"):
            num_top = getattr(self, name)
            _require(
                num_top is None or 0 <= num_top <= MAX_LOGPROBS,
                name,
                f"must be in [0, {MAX_LOGPROBS}]",
            )

    def _validate_lists(self) -> None:
        _require(
            len(self.stop_token_ids) <= MAX_STOP_TOKEN_IDS,
            "stop_token_ids",
            f"must have at most {MAX_STOP_TOKEN_IDS} entries",
        )
        _require(
            len(self.logit_bias) <= MAX_LOGIT_BIAS,
            "logit_bias",
            f"must have at most {MAX_LOGIT_BIAS} entries",
        )
        token_ids = [token_id for token_id, _ in self.logit_bias]
        _require(
            all(0 <= each < 2**31 for each in token_ids)
            and all(a < b for a, b in pairwise(token_ids)),
            "logit_bias",
            "must name token ids, each once, in ascending order",
        )
        _require(
            all(-100.0 <= bias <= 100.0 for _, bias in self.logit_bias),
            "logit_bias",
            "must be in [-100, 100] each",
        )


def _require(holds: bool, param: str, what: str) -> None:
    if not holds:
        raise InvalidRequest(f"{param} {what}", param=param)
