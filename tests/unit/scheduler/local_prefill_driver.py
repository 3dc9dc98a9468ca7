"""A scheduler whose decode workers may compute prompts, step by step."""

from __future__ import annotations

from itertools import count
from typing import Any

from scheduler_driver import SchedulerDriver

from gateway.generation import Generation
from gateway.local_prefill import LocalPrefillMode
from gateway.policies import queue_policy
from gateway.scheduler import Scheduler
from gateway.shared_state import Limits
from gateway.tenants import DEFAULT_TENANT, Tenant
from tandem.core.commands import Admit, PrefillBatch
from tandem.core.errors import Unavailable
from tandem.core.plan import StepRule
from tandem.core.reports import Armed, BatchDone, TransferDone
from tandem.core.worker import WorkerRole

# A CPU's core each: the prefill worker computes a thousand tokens a second, and so would the decode
# worker, but it is to put no more than some twenty into a step of 20 ms.
BASE_S, TOKEN_S = 0.02, 1e-3
TENANTS = {DEFAULT_TENANT: Tenant(), "a": Tenant()}
LOST = Unavailable("it was lost")


class Driver(SchedulerDriver):
    """A scheduler with a prefill and a decode worker whose pace is known, and streams that run."""

    def __init__(
        self,
        *,
        local_prefill: LocalPrefillMode = "auto",
        tpot_target_s: float = 0.0,
        measured: bool = True,
        prefill: bool = True,
        num_running: int = 3,
        policy: str = "shortest-first",
        num_prefill_blocks: int = 1000,
    ) -> None:
        self._numbers = count(1000)
        super().__init__(
            Scheduler(
                queue_policy(policy),
                Limits(max_batch_tokens=512),
                local_prefill=local_prefill,
                tpot_target_s=tpot_target_s,
                tenants=TENANTS,
            )
        )
        if prefill:
            self.join("p", WorkerRole.PREFILL, num_blocks=num_prefill_blocks)
        self.join("d", WorkerRole.DECODE)
        if measured and prefill:
            for num_tokens in (256, 64) * 10:
                self.stepped("p", num_tokens, TOKEN_S * num_tokens)
            self.learn("d")
        self.streams = [self.run(f"stream {number}") for number in range(num_running)]

    def run(self, name: str) -> Generation:
        """One that the prefill worker has computed runs on the decode worker."""
        generation = self.submit(name, length=8)
        self.effects()
        self.grant(generation)
        (batch,) = self.commands(PrefillBatch)
        self.scheduler.report("p", BatchDone(batch.batch_id, 1))
        self.scheduler.report("d", Armed(generation.sequence_id, 8, 50, 0))
        self.scheduler.report("p", TransferDone(generation.sequence_id, 1))
        self.effects()
        return generation

    def learn(self, name: str) -> None:
        """A decode worker's steps take their usual time."""
        for num_tokens in (0, 16, 20) * 10:
            self.stepped(name, num_tokens, BASE_S + TOKEN_S * num_tokens)

    def learn_idle(self, name: str) -> None:
        """Steps of a decode worker where nothing runs take their usual time."""
        self.effects()
        for num_tokens in (16, 40) * 10:
            self.stepped(name, num_tokens, BASE_S + TOKEN_S * num_tokens, num_seqs=0)

    def rule(self, name: str = "d") -> StepRule:
        """What a decode worker was told, once it has been told all."""
        self.effects()
        return self.scheduler._fleet.decode[name].step_rule

    def submit(
        self,
        name: str,
        length: int = 32,
        max_tokens: int = 5,
        *,
        alike: bool = False,
        **details: Any,
    ) -> Generation:
        """With `alike` all prompts begin alike."""
        prompt = (5 if alike else next(self._numbers), *(5,) * (length - 1))
        return self.submit_prompt(name, prompt, max_tokens, **details)

    def local(self) -> list[int]:
        """The sequences that a decode worker is newly told to compute."""
        return [each.sequence_id for each in self.commands(Admit) if each.compute]

    def keep_prefill_busy(self, length: int = 2048) -> Generation:
        """A long prompt runs, and more of it waits."""
        long = self.submit("long", length=length)
        self.effects()
        self.grant(long)
        assert len(self.commands(PrefillBatch)) == 2
        return long

    def computing(self, **details: Any) -> Generation:
        """A request whose prompt the decode worker computes."""
        self.keep_prefill_busy()
        generation = self.submit("r", **details)
        assert self.local() == [generation.sequence_id]
        self.grant(generation)
        return generation


# Where tokens are nearly free: a GPU reads weights for 5 ms, and computes 30,000 tokens a second.
GPU_BASE_S, GPU_TOKEN_S = 5e-3, 33e-6


def roofline_s(num_tokens: int) -> float:
    return max(GPU_BASE_S, GPU_TOKEN_S * num_tokens)


def gpu_driver() -> Driver:
    driver = Driver(measured=False)
    for num_tokens in (256, 2048) * 10:
        driver.stepped("p", num_tokens, roofline_s(num_tokens))
    return driver
