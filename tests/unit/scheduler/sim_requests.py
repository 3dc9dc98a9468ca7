"""What the simulation's clients ask for."""

from __future__ import annotations

from math import inf
from random import Random

from sim_client import Client, expectation
from sim_clock import Clock
from sim_faults import Faults
from sim_worker import VOCAB_SIZE

from gateway.tenants import DEFAULT_TENANT, Tenant, Tenants
from gateway.tokens import TokenRequest
from tandem.core.sampling_params import SamplingParams


class RandomRequests:
    """One after the other, of whichever of the `tenants`. `clients` are those that have come."""

    def __init__(
        self,
        random: Random,
        faults: Faults,
        tenants: Tenants,
        clients: dict[str, Client],
        clock: Clock,
    ) -> None:
        self._random = random
        self._faults = faults
        self._tenants = tenants
        self._clients = clients
        self._clock = clock

    def new(self) -> Client:
        """The next one's client."""
        random = self._random
        prompt = self._prompt()
        prompt_logprobs = random.choice((None, None, 1))
        params = SamplingParams(
            max_tokens=random.randint(1 if prompt_logprobs is None else 0, 20 - len(prompt)),
            seed=random.randrange(2**63),
            temperature=random.choice((0.0, 1.0)),
            stop_token_ids=frozenset(random.sample(range(VOCAB_SIZE), 20)),
            ignore_eos=random.random() < 0.3,
            logprobs=random.choice((None, 2)),
            prompt_logprobs=prompt_logprobs,
        )
        request = TokenRequest(
            f"r{len(self._clients)}",
            prompt,
            params,
            random.randrange(3),
            random.choice((b"", b"", b"salt")),
            random.choice(tuple(self._tenants)),
            random.choice((0, 0, -1, 5)),
            self._deadline_s(),
        )
        return Client(request, *expectation(request))

    def _prompt(self) -> tuple[int, ...]:
        """Begins as one before it, more often than not."""
        random = self._random
        length = random.randint(1, 14)
        shared: tuple[int, ...] = ()
        if self._clients and random.random() < 0.6:
            earlier = random.choice(tuple(self._clients.values()))
            tokens = (*earlier.request.prompt_token_ids, *earlier.tokens)
            shared = tokens[: random.randint(0, length)]
        rest = range(length - len(shared))
        return (*shared, *(random.randrange(VOCAB_SIZE) for _ in rest))

    def _deadline_s(self) -> float:
        if not (self._faults.deadlines and self._random.random() < self._faults.rate):
            return inf
        return self._clock.now_s() + self._random.choice((0.1, 1.0, 10.0))


def some_tenants(random: Random) -> Tenants:
    """Nobody but the default, in half of all scenarios."""
    if random.random() < 0.5:
        return {DEFAULT_TENANT: Tenant()}
    return {
        name: Tenant(
            weight=random.choice((0.5, 1.0, 3.0)), max_requests=random.choice((None, 1, 2))
        )
        for name in (DEFAULT_TENANT, "a", "b")
    }
