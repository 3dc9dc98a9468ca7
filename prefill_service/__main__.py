from prefill_service.service import PrefillSettings, serve
from tandem.process import lifetime
from tandem.process.logs import configure_logging
from tandem.process.settings import parse_settings

settings = parse_settings(PrefillSettings, "tandem prefill")
configure_logging(settings.log_level, settings.log_format)
lifetime.run(serve(settings))
