"""Network namespaces: each process on a host of its own, and a router between them that can lose,
refuse or slow down what goes from one to another. Needs root and `ip`; nothing outside of the
namespaces is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

ROUTER = "tandem-router"
GATEWAY = "tandem-gateway"
RULE_PREFERENCE = "10"


def can_make_namespaces() -> bool:
    """Whether this user may make them."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "tandem-probe"], capture_output=True, check=False)
    if made.returncode == 0:
        _ip("netns", "del", "tandem-probe")
    return made.returncode == 0


@dataclass(frozen=True)
class Host:
    """A namespace, its address, and the router's interface to it."""

    name: str
    address: str
    router_interface: str

    @property
    def command(self) -> tuple[str, ...]:
        """What runs a process there."""
        return ("ip", "netns", "exec", self.name)


class Network:
    """Hosts around one router."""

    def __init__(self, names: Sequence[str]) -> None:
        self.hosts = {
            name: Host(name, f"10.77.{number}.2", f"to{number}")
            for number, name in enumerate(names)
        }

    def make(self) -> None:
        self.remove()
        _ip("netns", "add", ROUTER)
        _in(ROUTER, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        for host in self.hosts.values():
            gateway = host.address[:-1] + "1"
            _ip("netns", "add", host.name)
            _ip("link", "add", host.router_interface, "netns", ROUTER,
                "type", "veth", "peer", "name", "eth0", "netns", host.name)  # fmt: skip
            _in(ROUTER, "ip", "addr", "add", f"{gateway}/30", "dev", host.router_interface)
            _in(ROUTER, "ip", "link", "set", host.router_interface, "mtu", "1500", "up")
            _in(host.name, "ip", "addr", "add", f"{host.address}/30", "dev", "eth0")
            _in(host.name, "ip", "link", "set", "eth0", "up")
            _in(host.name, "ip", "link", "set", "lo", "up")
            _in(host.name, "ip", "route", "add", "default", "via", gateway)

    def remove(self) -> None:
        for name in (*self.hosts, ROUTER):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    @contextmanager
    def partition(self, one: str, other: str, how: str) -> Iterator[None]:
        """Between two hosts nothing gets through: it is lost without a word ("blackhole") or
        refused ("unreachable")."""
        rules = [
            ("from", self.hosts[source].address, "to", self.hosts[target].address, how)
            for source, target in ((one, other), (other, one))
        ]
        for rule in rules:
            _in(ROUTER, "ip", "rule", "add", "pref", RULE_PREFERENCE, *rule)
        try:
            yield
        finally:
            for rule in rules:
                _in(ROUTER, "ip", "rule", "del", "pref", RULE_PREFERENCE, *rule)

    @contextmanager
    def slow(self, name: str, rate: str) -> Iterator[None]:
        """What goes to a host goes at so many bits a second, as in "8mbit"."""
        interface = ("dev", self.hosts[name].router_interface, "root")
        _in(ROUTER, "tc", "qdisc", "add", *interface,
            "tbf", "rate", rate, "burst", "16kb", "latency", "200ms")  # fmt: skip
        try:
            yield
        finally:
            _in(ROUTER, "tc", "qdisc", "del", *interface)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _in(namespace: str, *command: str) -> None:
    subprocess.run(["ip", "netns", "exec", namespace, *command], check=True)
