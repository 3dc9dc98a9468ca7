"""`python -m gateway`: runs the service."""

from tandem.process.lifetime import begin, run

begin()

import sys  # noqa: E402

import uvloop  # noqa: E402

from gateway.service import serve  # noqa: E402
from gateway.settings import GatewaySettings  # noqa: E402
from tandem.process.logs import configure_logging  # noqa: E402
from tandem.process.settings import parse_settings  # noqa: E402
from tandem.process.variables import warn_of_unknown  # noqa: E402

# gRPC hears workers on a thread of its own, which gets the interpreter from a busy event loop no
# sooner than that; with Python's own 5 ms, workers that had spoken were taken for lost.
sys.setswitchinterval(0.0005)
settings = parse_settings(GatewaySettings, "tandem gateway")
configure_logging(settings.log_level, settings.log_format)
warn_of_unknown()
run(serve(settings), uvloop.new_event_loop)
