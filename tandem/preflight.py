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
from gateway.service import GatewaySettings
from prefill_service.service import PrefillSettings
from tandem.core.errors import ConfigError
from tandem.process.logs import configure_logging
from tandem.process.settings import read_settings
from tandem.wire.tls import Role

Check = Callable[[], object]


def refusals(module: str, flags: Sequence[str]) -> Iterator[str]:
    """What a service has to say against its flags."""
    try:
        checks = CHECKS[module](flags)
    except ConfigError as error:
        # Each setting that is wrong has a line; without settings there is nothing else to read.
        yield from error.message.splitlines()
        return
    for check in checks:
        try:
            check()
        except ConfigError as error:
            yield error.message


def _gateway(flags: Sequence[str]) -> tuple[Check, ...]:
    settings = read_settings(GatewaySettings, "tandem gateway", flags)
    identity = partial(settings.read_identity, Role.GATEWAY)
    return settings.workers, identity, settings.read_access, settings.scheduler


def _prefill(flags: Sequence[str]) -> tuple[Check, ...]:
    settings = read_settings(PrefillSettings, "tandem prefill", flags)
    return (partial(settings.read_identity, Role.PREFILL),)


def _decode(flags: Sequence[str]) -> tuple[Check, ...]:
    settings = read_settings(DecodeSettings, "tandem decode", flags)
    return (partial(settings.read_identity, Role.DECODE),)


CHECKS = {"gateway": _gateway, "prefill_service": _prefill, "decode_service": _decode}


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
