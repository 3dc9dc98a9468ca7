"""`python -m decode_service`: runs the service."""

from tandem.process.lifetime import begin, run

begin()

import sys  # noqa: E402

import uvloop  # noqa: E402

from decode_service.service import DecodeSettings, serve  # noqa: E402
from tandem.core.device import CudaDevice, parse_device  # noqa: E402
from tandem.process.logs import configure_logging  # noqa: E402
from tandem.process.settings import parse_settings  # noqa: E402
from tandem.process.variables import warn_of_unknown  # noqa: E402

settings = parse_settings(DecodeSettings, "tandem decode")
if isinstance(parse_device(settings.device), CudaDevice):
    # A step there takes one or two milliseconds, and its launch lets go of the interpreter some
    # times: each time a busy event loop would keep it for up to Python's own 5 ms.
    sys.setswitchinterval(0.0005)
configure_logging(settings.log_level, settings.log_format)
warn_of_unknown()
run(serve(settings), uvloop.new_event_loop)
