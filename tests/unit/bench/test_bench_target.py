"""Where a load goes."""

from __future__ import annotations

import pytest

from tandem.bench.target import parse_target
from tandem.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "base", "metrics"),
    [
        ("http://host:8000", "http://host:8000", "http://host:8000/metrics"),
        ("http://host:8000/v1/", "http://host:8000", "http://host:8000/metrics"),
        (
            "https://host/some/way/v1",
            "https://host:443/some/way",
            "https://host:443/some/way/metrics",
        ),
        ("http://[::1]:80", "http://[::1]:80", "http://[::1]:80/metrics"),
        ("grpc://host", "grpc://host:50050", ""),
    ],
)
def test_urls_are_read(text: str, base: str, metrics: str) -> None:
    url = parse_target(text)
    assert (url.base, url.metrics) == (base, metrics)


@pytest.mark.parametrize(
    "text",
    ["host:8000", "ftp://host", "http://", "http://host:port", "grpc://host/v1/x", "http://h?a"],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_target(text)
