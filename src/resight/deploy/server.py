"""A small HTTP server of one page, for the person at this machine alone.

Any web page that is open in a browser can send requests to a server on the same machine, also by a
name that it lets lead here. So a request is served only if its Host is this address and its Origin,
where a browser sends one, is this page.
"""

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..errors import ResightError, UsageError, is_memory_full
from ..files import WINDOWS, json_text
from ..text import one_line

MAX_UPLOAD_BYTES = 20 * 2**20
UPLOAD_SECS = 60.0  # for the whole of a picture; the page is on the same machine
_SILENT_SECS = 20.0  # without a byte, after which a connection is closed
_PIECE_BYTES = 2**16
_LINGER_SECS, _LINGER_BYTES = 2.0, 4 * 2**20  # of an upload that was refused
_HOST = "127.0.0.1"  # no other machine can connect


@dataclass(frozen=True)
class Page:
    """A page in HTML, and the content security policy that it is sent with."""

    content: bytes
    policy: str


class PageServer(ThreadingHTTPServer):
    """A server on this machine, and for this machine alone, of one page and what it asks for."""

    daemon_threads = True  # Ctrl-C does not wait for a picture
    allow_reuse_address = not WINDOWS  # where a second server could take the port

    def __init__(self, port: int, page: Page, inspect: Callable[[bytes], dict[str, Any]]) -> None:
        """`inspect` turns the content of a picture file into what the page shows."""
        self.page, self.inspect = page, inspect
        self.computing = threading.Lock()  # one picture at a time
        try:
            super().__init__((_HOST, port), _Handler)
        except OSError as error:
            raise UsageError(
                f"port {port} cannot be used ({error.strerror}); give another one with --port, "
                "or 0 for any that is free"
            ) from error

    def server_bind(self) -> None:
        """Bind without looking up the name of this machine, which may take long."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{_HOST}:{self.server_port}/"

    @property
    def hosts(self) -> tuple[str, str]:
        """What this machine is called in a request."""
        return f"{_HOST}:{self.server_port}", f"localhost:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Pass over a connection that broke, as when the browser has gone."""


class _Refusal(Exception):
    """A request that is not answered: a status and a line for the person."""

    def __init__(self, status: HTTPStatus, line: str) -> None:
        super().__init__(line)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "resight", ""
    timeout = _SILENT_SECS

    def do_GET(self) -> None:
        """Send the page."""
        try:
            self._check_sender()
            if self.path != "/":
                raise _Refusal(HTTPStatus.NOT_FOUND, "there is one page here, at /")
        except _Refusal as refusal:
            self._send_line(refusal)
            return
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", self.server.page.content)

    def do_POST(self) -> None:
        """Send what the page shows of the picture in the body."""
        try:
            self._check_sender()
            if self.path != "/inspect":
                raise _Refusal(HTTPStatus.NOT_FOUND, "a picture is sent to /inspect")
            content = self._read_picture()
            with self.server.computing:
                result = _inspect(self.server.inspect, content)
        except _Refusal as refusal:
            self._send_line(refusal)
            if refusal.status != HTTPStatus.UNPROCESSABLE_ENTITY:  # the body was not read
                self._linger()
            return
        self._send(HTTPStatus.OK, "application/json", json_text(result).encode())

    def _check_sender(self) -> None:
        """Refuse what another page or another machine sends."""
        hosts, origins = (self.headers.get_all(name, []) for name in ("Host", "Origin"))
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            raise _Refusal(HTTPStatus.FORBIDDEN, f"this page is at {self.server.url} alone")
        if any(origin != f"http://{hosts[0]}" for origin in origins):
            raise _Refusal(HTTPStatus.FORBIDDEN, "another page may not send pictures here")

    def _read_picture(self) -> bytes:
        """Read the body, in pieces, after its size is known to be allowed."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or "Transfer-Encoding" in self.headers:
            raise _Refusal(HTTPStatus.LENGTH_REQUIRED, "send a picture with its size in bytes")
        if len(length) > 12 or int(length) > MAX_UPLOAD_BYTES:
            limit = MAX_UPLOAD_BYTES // 2**20
            line = f"this file is too large; a picture may have up to {limit} MB"
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, line)
        content, end = bytearray(), time.monotonic() + UPLOAD_SECS
        while len(content) < int(length):
            piece = self.rfile.read1(min(_PIECE_BYTES, int(length) - len(content)))
            if not piece or time.monotonic() > end:
                raise _Refusal(HTTPStatus.BAD_REQUEST, "the picture did not arrive as a whole")
            content += piece
        return bytes(content)

    def _send(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Content-Security-Policy": self.server.page.policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-store",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _send_line(self, refusal: _Refusal) -> None:
        content = json.dumps({"error": one_line(str(refusal))}).encode()
        self._send(refusal.status, "application/json", content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send what http.server itself refuses, such as another method, as a line too."""
        self._send_line(_Refusal(HTTPStatus(code), f"this request is refused: {message or code}"))

    def _linger(self) -> None:
        """Take in a little more of what was refused, so that the line reaches the sender.

        A connection that is closed while data waits is reset, and the browser shows no answer.
        """
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(_LINGER_SECS)
            count, end = 0, time.monotonic() + _LINGER_SECS
            while count < _LINGER_BYTES and time.monotonic() < end:
                piece = self.connection.recv(_PIECE_BYTES)
                if not piece:
                    break
                count += len(piece)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the library never does."""


def _inspect(inspect: Callable[[bytes], dict[str, Any]], content: bytes) -> dict[str, Any]:
    try:
        return inspect(content)
    except ResightError as error:
        line = str(error)
    except Exception as error:  # the server outlives every picture, and the code of any network
        line = f"the picture failed ({type(error).__name__}: {error})"
        if is_memory_full(error):
            line = "the memory of this machine is full; send a smaller picture"
    raise _Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, line)
