"""`python -m decode_service`: runs the service."""

from tandem.process.lifetime import begin, run

begin()

import uvloop  # noqa: E402

from decode_service.service import DecodeSettings, serve  # noqa: E402
from tandem.process.logs import configure_logging  # noqa: E402
from tandem.process.settings import parse_settings  # noqa: E402
from tandem.process.variables import warn_of_unknown  # noqa: E402

settings = parse_settings(DecodeSettings, "tandem decode")
configure_logging(settings.log_level, settings.log_format)
warn_of_unknown()
run(serve(settings), uvloop.new_event_loop)
