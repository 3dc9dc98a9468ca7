"""Addresses as people write them: `host:port`, `10.0.0.1:50051`, `[::1]:50051`."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from tandem.core.errors import ConfigError

WILDCARDS = frozenset({"0.0.0.0", "::"})


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host, by name or by number, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, param: str | None = None) -> Address:
    """Raises `ConfigError`, with `param`, for what is no address."""
    written, _, port = text.strip().rpartition(":")
    host = without_brackets(written)
    if host == written and ":" in host:
        host = ""
    if not _is_name(host) or not _is_port(port):
        without = f", without {text.partition('://')[0].strip():.20}://" if "://" in text else ""
        raise ConfigError(f"{text!r:.200} is no address: write host:port{without}", param=param)
    return Address(host, int(port))


def without_brackets(host: str) -> str:
    """`[::1]`, as an address has it, is the host `::1`."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def _is_name(host: str) -> bool:
    try:
        return bool(host.encode("idna"))
    except UnicodeError:
        return False


def _is_port(text: str) -> bool:
    return text.isdecimal() and len(text) <= 5 and 1 <= int(text) <= 65535


def local_host(host: str) -> str:
    """Where this machine reaches a server that listens on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def without_v1(url: str) -> str:
    """Where a server is whose URL is given as OpenAI's clients want it, or without the `/v1`."""
    return url.rstrip("/").removesuffix("/v1")


def of_one_family(hosts: list[str]) -> list[str]:
    """The IPv4 addresses among a name's, or all if there is none, without doubles.

    Whoever has an address of each family would else be met twice.
    """
    ipv4 = [host for host in hosts if ip_address(host).version == 4]
    return list(dict.fromkeys(ipv4 or hosts))
