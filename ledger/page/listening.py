"""Where `ledger serve` listens, and under which names it is known there."""

import errno
import os
import secrets
import socket
import string
from ipaddress import ip_address

from flask import Flask
from waitress import create_server

from patches.errors import SettingError

SHORTEST_TOKEN = 16
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_TOKEN_LETTERS = frozenset(string.ascii_letters + string.digits + "-_.~")
_TOKEN_BYTES = 32
_THREADS = 4
# Bytes of an address with its cookies, and of a form with a token.
_LARGEST_REQUEST = 1 << 16
_REASONS = {
    errno.EADDRINUSE: "another program listens there, maybe another ledger serve; choose another "
    "with --port, or --port 0 for any that is free",
    errno.EACCES: "the system keeps it for its own services; choose one above 1023 with --port",
    errno.EADDRNOTAVAIL: "this machine does not have that address; give one of its own with --host",
}


def checked_token(given: str | None) -> str:
    """The token to ask for: the given one, or a new one from the system's random numbers.

    Raises SettingError, which does not repeat it, if it is too short or does not fit an address.
    """
    if given is None:
        return secrets.token_urlsafe(_TOKEN_BYTES)
    if len(given) < SHORTEST_TOKEN or not _TOKEN_LETTERS.issuperset(given):
        raise SettingError(
            f"--token, or LEDGER_SERVE_TOKEN: at least {SHORTEST_TOKEN} letters, digits and -_.~ "
            "are needed; leave it out for a random one"
        )
    return given


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at that port, 0 for any that is free, of an address of this machine.

    Raises SettingError if there is no such address, or the port is not to be had.
    """
    try:
        known = socket.getaddrinfo(host or "?", port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError(
            f"--host {host}: no such address ({reason}); give one of this machine, as 127.0.0.1"
        ) from error
    family, kind, protocol, _, address = known[0]
    found = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would share the port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen()
    except OSError as error:
        found.close()
        reason = _REASONS.get(error.errno or 0) or error.strerror
        raise SettingError(f"port {port} of {host}: {reason}") from error
    return found


def is_loopback(listening: socket.socket) -> bool:
    """Whether only this machine can reach it."""
    return ip_address(_number(listening)).is_loopback


def names(host: str, listening: socket.socket) -> frozenset[str]:
    """The names under which it may be asked, beside addresses in numbers."""
    own = frozenset((host.lower(), _number(listening)))
    if is_loopback(listening):
        return own | LOOPBACK
    if ip_address(_number(listening)).is_unspecified:
        return own | LOOPBACK | {socket.gethostname().lower()}
    return own


def address(host: str, listening: socket.socket) -> str:
    """What to type into a browser on this machine, for the first page."""
    if ip_address(_number(listening)).is_unspecified:
        host = "::1" if listening.family == socket.AF_INET6 else "127.0.0.1"
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}/"


def _number(listening: socket.socket) -> str:
    """Its address in numbers, without the interface that some have in IPv6."""
    return str(listening.getsockname()[0]).partition("%")[0]


def serve(app: Flask, listening: socket.socket) -> None:
    """Answer until the program is interrupted; then finish what is being answered, for a while."""
    server = create_server(
        app,
        sockets=[listening],
        threads=_THREADS,
        ident="",
        log_socket_errors=False,
        max_request_header_size=_LARGEST_REQUEST,
        max_request_body_size=_LARGEST_REQUEST,
    )
    try:
        server.run()
    finally:
        server.close()
