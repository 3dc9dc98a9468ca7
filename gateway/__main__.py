import uvloop

from gateway.service import GatewaySettings, serve
from tandem.process import lifetime
from tandem.process.logs import configure_logging
from tandem.process.settings import parse_settings

settings = parse_settings(GatewaySettings, "tandem gateway")
configure_logging(settings.log_level, settings.log_format)
lifetime.run(serve(settings), uvloop.new_event_loop)
