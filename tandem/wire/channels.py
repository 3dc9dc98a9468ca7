"""How all of Tandem's gRPC channels and servers are set up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from tandem.core.address import parse_address
from tandem.core.proxies import may_take_proxy
from tandem.wire.tls import ChannelTls

# Small enough that nothing in Tandem needs more, large enough for the largest KV frame.
MAX_MESSAGE_BYTES = 16 * 2**20
STREAM_WINDOW_BYTES = 4 * 2**20

_COMMON = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]
CHANNEL_OPTIONS = [
    *_COMMON,
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # A worker that comes back is found within a second, not after minutes of backoff.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
SERVER_OPTIONS = [
    *_COMMON,
    # The C core's default of 300 s would answer the keepalives above with GOAWAY.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    # What a stream may have sent that nobody has read: gRPC would let it grow to 16 MiB, of each of
    # many KV transfers to one worker. Less than two of the largest frames, each in one piece of
    # HTTP/2's, would slow a transfer down.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.http2.lookahead_bytes", STREAM_WINDOW_BYTES),
    ("grpc.http2.max_frame_size", STREAM_WINDOW_BYTES),
    # Two servers on one port would share its connections at random: refuse the second.
    ("grpc.so_reuseport", 0),
]


# A reader that falls behind is to have the newest reports soon, merged, and not megabytes of older
# ones first: the windows stay at HTTP/2's 64 KiB, and do not grow with what they are used for.
COMMAND_CHANNEL_OPTIONS = [*CHANNEL_OPTIONS, ("grpc.http2.bdp_probe", 0)]
# gRPC would take the environment's, for loopback too.
NO_PROXY = ("grpc.enable_http_proxy", 0)


def open_channel(address: str, tls: ChannelTls | None = None) -> grpc.aio.Channel:
    """A channel to one instance: never shared by a balancer, since a stream belongs to a worker."""
    return _open(address, CHANNEL_OPTIONS, tls)


def open_command_channel(address: str, tls: ChannelTls | None = None) -> grpc.aio.Channel:
    """A channel for a worker's command stream."""
    return _open(address, COMMAND_CHANNEL_OPTIONS, tls)


def new_server(
    max_request_bytes: int = MAX_MESSAGE_BYTES,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    max_calls: int | None = None,
) -> grpc.aio.Server:
    """A server that takes no larger messages, and no more calls at a time."""
    # Not beside another limit: of an option that is given twice, gRPC takes the first.
    limit = ("grpc.max_receive_message_length", max_request_bytes)
    return grpc.aio.server(
        interceptors=interceptors,
        options=[*SERVER_OPTIONS, limit],
        maximum_concurrent_rpcs=max_calls,
    )


def open_sync_channel(address: str, tls: ChannelTls | None = None) -> grpc.Channel:
    """A channel for who has no event loop."""
    options = [*CHANNEL_OPTIONS, *_options_towards(address, tls)]
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, tls.credentials, options=options)


def _open(
    address: str, options: Sequence[tuple[str, Any]], tls: ChannelTls | None
) -> grpc.aio.Channel:
    options = [*options, *_options_towards(address, tls)]
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, tls.credentials, options=options)


def _options_towards(address: str, tls: ChannelTls | None) -> list[tuple[str, Any]]:
    if tls is None:
        return [NO_PROXY]
    if tls.server:
        # Certificates are of roles, whatever the address.
        return [NO_PROXY, ("grpc.ssl_target_name_override", tls.server.certified_name)]
    takes_proxy = may_take_proxy(parse_address(address).host, has_tls=True)
    return [] if takes_proxy else [NO_PROXY]
