from decode_service.service import DecodeSettings, serve
from tandem.process import lifetime
from tandem.process.logs import configure_logging
from tandem.process.settings import parse_settings

settings = parse_settings(DecodeSettings, "tandem decode")
configure_logging(settings.log_level, settings.log_format)
lifetime.run(serve(settings))
