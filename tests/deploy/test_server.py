"""The server of the page over real connections: whom it serves, and what it refuses unread."""

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

from refusal import refused
from resight.deploy import server as deploy_server
from resight.deploy.server import MAX_UPLOAD_BYTES, Page, PageServer
from resight.errors import UsageError

PAGE = Page(b"<!doctype html><p>the page</p>", "default-src 'none'")


@contextmanager
def running(inspect: Callable[[bytes], dict[str, Any]]) -> Iterator[PageServer]:
    server = PageServer(0, PAGE, inspect)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server() -> Iterator[PageServer]:
    """A server that says how many bytes it got."""
    with running(lambda content: {"bytes": len(content)}) as server:
        yield server


def send(
    server: PageServer,
    method: str = "POST",
    path: str = "/inspect",
    *,
    body: bytes | None = b"x",
    headers: dict[str, str] | None = None,
) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, body=body, headers=headers or {})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response, content


def send_raw(server: PageServer, text: bytes) -> bytes:
    """What comes back for these very bytes."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_the_page_and_a_picture(server: PageServer) -> None:
    response, content = send(server, "GET", "/", body=None)
    assert (response.status, content) == (200, PAGE.content)
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    response, content = send(server, body=b"12345")
    assert (response.status, json.loads(content)) == (200, {"bytes": 5})
    for headers in (response.headers, send(server, "GET", "/", body=None)[0].headers):
        assert headers["Content-Security-Policy"] == PAGE.policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
        assert "Python" not in headers["Server"]


def test_only_this_machine_can_connect(server: PageServer) -> None:
    assert server.socket.getsockname()[0] == "127.0.0.1"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", server.url)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", "localhost"]
)
def test_another_host_is_refused(server: PageServer, method: str, host: str) -> None:
    headers = {"Host": host.format(port=server.server_port)}
    path = "/" if method == "GET" else "/inspect"
    response, content = send(server, method, path, headers=headers)
    assert response.status == 403
    assert b"the page</p>" not in content
    assert server.url in json.loads(content)["error"]


def test_no_host_and_two_hosts_are_refused(server: PageServer) -> None:
    port = server.server_port
    assert b" 403 " in send_raw(server, b"GET / HTTP/1.0\r\n\r\n").splitlines()[0]
    two = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nHost: evil.example\r\n\r\n"
    assert b" 403 " in send_raw(server, two.encode()).splitlines()[0]


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}"]
)
def test_another_origin_is_refused(server: PageServer, origin: str) -> None:
    headers = {"Origin": origin.format(port=server.server_port)}
    response, content = send(server, headers=headers)
    assert response.status == 403
    assert "another page" in json.loads(content)["error"]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_page_itself_may_send(server: PageServer, name: str) -> None:
    host = f"{name}:{server.server_port}"
    response, _ = send(server, headers={"Host": host, "Origin": f"http://{host}"})
    assert response.status == 200


@pytest.mark.parametrize("size", [MAX_UPLOAD_BYTES + 1, 50 * 2**20, 10**30])
def test_a_large_body_is_refused_before_it_is_sent(server: PageServer, size: int) -> None:
    host = f"Host: 127.0.0.1:{server.server_port}\r\n"
    head = f"POST /inspect HTTP/1.1\r\n{host}Content-Length: {size}\r\n\r\n"
    reply = send_raw(server, head.encode())
    assert b" 413 " in reply.splitlines()[0]
    assert b"up to 20 MB" in reply


def test_of_a_large_body_only_a_little_is_read(server: PageServer) -> None:
    """The sender gets the line, although it cannot send all of its 50 MB."""
    head = (
        f"POST /inspect HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n"
        f"Content-Length: {50 * 2**20}\r\n\r\n"
    )
    sent = 0
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
        connection.sendall(head.encode())
        try:
            while sent < 50 * 2**20:
                sent += connection.send(bytes(2**16))
        except ConnectionError:
            pass
        reply = connection.recv(65536)
    assert b" 413 " in reply.splitlines()[0]
    assert sent < 50 * 2**20
    assert send(server)[0].status == 200


def test_the_largest_picture_is_taken(server: PageServer) -> None:
    response, content = send(server, body=bytes(MAX_UPLOAD_BYTES))
    assert (response.status, json.loads(content)) == (200, {"bytes": MAX_UPLOAD_BYTES})


@pytest.mark.parametrize(
    "head",
    [
        "",
        "Content-Length: -1",
        "Content-Length: many",
        "Content-Length: ²",
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked",
    ],
)
def test_a_body_without_a_size_is_refused(server: PageServer, head: str) -> None:
    text = f"POST /inspect HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n{head}\r\n\r\nabc"
    assert b" 411 " in send_raw(server, text.encode()).splitlines()[0]


def test_a_body_that_ends_early_is_refused(server: PageServer) -> None:
    host = f"127.0.0.1:{server.server_port}"
    text = f"POST /inspect HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\nabc"
    assert b"did not arrive as a whole" in send_raw(server, text.encode())


def test_a_sender_that_falls_silent_holds_up_nobody(
    server: PageServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deploy_server._Handler, "timeout", 0.2)
    host = f"127.0.0.1:{server.server_port}"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as silent:
        silent.sendall(
            f"POST /inspect HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\n".encode()
        )
        assert send(server)[0].status == 200
        assert silent.recv(100) == b""  # closed


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/inspect", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "//evil.example/", 404),
        ("POST", "/", 404),
        ("PUT", "/inspect", 501),
        ("OPTIONS", "/inspect", 501),
        ("DELETE", "/", 501),
    ],
)
def test_there_is_nothing_else(server: PageServer, method: str, path: str, status: int) -> None:
    response, content = send(server, method, path)
    assert response.status == status
    assert list(json.loads(content)) == ["error"]
    assert response.headers["Content-Security-Policy"] == PAGE.policy


@pytest.mark.parametrize(
    "text",
    [b"\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\x00" * 99],
)
def test_what_is_no_request_does_no_harm(server: PageServer, text: bytes) -> None:
    send_raw(server, text)
    assert send(server)[0].status == 200


def test_endless_headers_are_refused(server: PageServer) -> None:
    host = f"Host: 127.0.0.1:{server.server_port}\r\n"
    many = "".join(f"X-{i}: {i}\r\n" for i in range(200))
    assert b" 431 " in send_raw(server, f"GET / HTTP/1.1\r\n{host}{many}\r\n".encode())
    assert send(server)[0].status == 200


def test_a_failure_is_one_line_and_the_server_goes_on() -> None:
    failures = [UsageError("no picture"), ValueError("two\nlines"), MemoryError(), None]

    def inspect(content: bytes) -> dict[str, Any]:
        if failure := failures.pop(0):
            raise failure
        return {}

    with running(inspect) as server:
        lines = []
        for _ in range(3):
            response, content = send(server)
            assert response.status == 422
            lines.append(json.loads(content)["error"])
        assert lines[0] == "no picture"
        assert lines[1] == "the picture failed (ValueError: two lines)"
        assert "memory" in lines[2]
        assert send(server)[0].status == 200


def test_one_picture_at_a_time() -> None:
    at_once, most = 0, 0

    def inspect(content: bytes) -> dict[str, Any]:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        time.sleep(0.05)
        at_once -= 1
        return {}

    with running(inspect) as server:
        threads = [threading.Thread(target=send, args=(server,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert send(server, "GET", "/", body=None)[0].status == 200  # the page does not wait
        for thread in threads:
            thread.join()
    assert most == 1


def test_a_port_that_is_taken(server: PageServer) -> None:
    with refused(f"port {server.server_port} cannot be used"):
        PageServer(server.server_port, PAGE, lambda content: {})
