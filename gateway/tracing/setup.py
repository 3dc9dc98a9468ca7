"""Tracing, as the settings and OpenTelemetry's own environment ask for it."""

from __future__ import annotations

import os

from gateway.tracing.trace import Tracing
from tandem.core.errors import ConfigError
from tandem.core.installation import install_tandem

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def open_tracing(endpoint: str | None, sample: float | None, instance_id: str) -> Tracing:
    """Traces go to the collector at `endpoint`, or at the environment's, and there are none without
    either. Of the requests that are not part of a trace already, the share `sample` is traced.
    Raises `ConfigError`."""
    collector = find_collector(endpoint)
    if collector is None:
        return Tracing()
    from gateway.tracing.otlp import otlp_tracing

    return otlp_tracing(collector, sample, instance_id)


def find_collector(endpoint: str | None) -> str | None:
    """Where traces go, None for nowhere. Raises `ConfigError` for what is no address, and where
    OpenTelemetry is missing."""
    variables = map(os.environ.get, ENDPOINT_VARIABLES)
    endpoint = endpoint or next(filter(None, variables), None)
    if endpoint is None:
        return None
    if not endpoint.startswith(("http://", "https://")):
        raise ConfigError(
            f"{endpoint} is no collector's address: http://HOST:4317, or https://",
            param="otlp_endpoint",
        )
    try:
        import gateway.tracing.otlp  # noqa: F401 - whether it can be
    except ImportError as error:
        raise ConfigError(
            f"traces need OpenTelemetry ({error.name} is missing): {install_tandem(extra='otel')}",
            param="otlp_endpoint",
        ) from None
    return endpoint
