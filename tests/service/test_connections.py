"""Connections that send no request are closed, and there are never more than the process can have."""

import contextlib
import socket
import threading
import time

import pytest
import uvicorn

from anomaly_toolbox.service import connections

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def app(scope, receive, send):
    """Answers every request, without a body."""
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@pytest.fixture
def port(monkeypatch):
    """The port of a server that is very impatient."""
    monkeypatch.setattr(connections, "SECONDS_FOR_HEADERS", 0.5)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=connections.ImpatientProtocol, lifespan="off", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()[1]
    server.should_exit = True
    thread.join()


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=30)


@pytest.mark.parametrize("first", [b"", REQUEST])
def test_a_connection_without_a_whole_request_is_closed(port, first):
    """Single bytes do not prolong it."""
    with connect(port) as connection:
        connection.sendall(first)
        if first:
            assert connection.recv(1000).startswith(b"HTTP/1.1 204")
        is_open, ends_at = True, time.monotonic() + 30
        while is_open:
            assert time.monotonic() < ends_at
            try:
                connection.sendall(b"G")
            except OSError:
                is_open = False
            time.sleep(0.1)


def test_too_many_connections_are_refused(port, monkeypatch):
    monkeypatch.setattr(connections, "most_connections", lambda: 2)
    monkeypatch.setattr(connections, "SECONDS_FOR_HEADERS", 60)
    with connect(port) as first, connect(port) as second:
        for connection in (first, second):
            connection.sendall(REQUEST)
            assert connection.recv(1000).startswith(b"HTTP/1.1 204")
        with connect(port) as third, contextlib.suppress(ConnectionResetError):
            assert third.recv(1) == b""
        first.sendall(REQUEST)
        assert first.recv(1000).startswith(b"HTTP/1.1 204")
