"""`python -m tandem.preflight COMMANDS`: whether services would take their flags.

What a service reads at its start is read here as well, by its own means, and nothing is started.
COMMANDS is JSON, a list for each service: its module and its flags. Each refusal is printed, a line
of its own, and the exit status is 1 if there is one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from decode_service.service import DecodeSettings
from gateway.settings import GatewaySettings
from gateway.tracing.setup import find_collector
from prefill_service.service import PrefillSettings
from tandem.artifacts.config import ModelConfig
from tandem.artifacts.resolve import find_config
from tandem.core.errors import ConfigError
from tandem.process.flags import with_flag
from tandem.process.logs import configure_logging
from tandem.process.settings import read_settings
from tandem.wire.tls import Role
from tandem.worker.fit import misfits, takes_kernels
from tandem.worker.settings import WorkerSettings

Problems = Iterator[ConfigError]


def refusals(module: str, flags: Sequence[str]) -> Iterator[str]:
    """What a service has to say against its flags."""
    try:
        problems = PROBLEMS[module](flags)
    except ConfigError as error:
        # Each setting that is wrong has a line; without settings there is nothing else to read.
        yield from error.message.splitlines()
        return
    yield from map(with_flag, problems)


def _gateway(flags: Sequence[str]) -> Problems:
    settings = read_settings(GatewaySettings, "tandem gateway", flags)
    return _failures(
        settings.workers,
        partial(settings.read_identity, Role.GATEWAY),
        settings.read_access,
        settings.scheduler,
        partial(find_collector, settings.otlp_endpoint),
    )


def _prefill(flags: Sequence[str]) -> Problems:
    return _worker(read_settings(PrefillSettings, "tandem prefill", flags), Role.PREFILL)


def _decode(flags: Sequence[str]) -> Problems:
    return _worker(read_settings(DecodeSettings, "tandem decode", flags), Role.DECODE)


def _worker(settings: WorkerSettings, role: Role) -> Problems:
    yield from _failures(partial(settings.read_identity, role))
    config = _config(settings)
    try:
        has_kernels = takes_kernels(settings, config)
    except ConfigError as error:
        yield error
        return
    yield from misfits(settings, config, has_kernels=has_kernels)


def _config(settings: WorkerSettings) -> ModelConfig | None:
    """None also for a model that cannot be used, which `tandem doctor` says itself."""
    try:
        return find_config(settings.model)
    except ConfigError:
        return None


def _failures(*checks: Callable[[], object]) -> Problems:
    for check in checks:
        try:
            check()
        except ConfigError as error:
            yield error


PROBLEMS = {"gateway": _gateway, "prefill_service": _prefill, "decode_service": _decode}


def main() -> None:
    """Ends the process."""
    configure_logging("error", "console")
    commands: list[list[str]] = json.loads(sys.argv[1])
    # What is wrong for several is said once.
    found = dict.fromkeys(each for module, *flags in commands for each in refusals(module, flags))
    print("\n".join(found))
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
