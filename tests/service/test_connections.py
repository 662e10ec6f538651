"""Connections that send no request or do not read are closed, and there are never more than the process can have."""

import contextlib
import socket
import threading
import time

import pytest
import uvicorn

from anomaly_toolbox.service import connections

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


LARGE = bytes(30_000_000)


async def app(scope, receive, send):
    """Answers every request: without a body, or with one that is larger than all buffers on its way."""
    if scope["path"] == "/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
    elif scope["path"] == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": LARGE})
    else:
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


@pytest.fixture
def port(monkeypatch):
    """The port of a server that is very impatient."""
    monkeypatch.setattr(connections, "SECONDS_FOR_HEADERS", 0.5)
    monkeypatch.setattr(connections, "SECONDS_FOR_READING", 0.5)
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


@pytest.mark.parametrize("n_requests", [1, 9])
def test_a_connection_whose_answer_is_not_read_is_closed(port, n_requests):
    with connect(port) as connection:
        connection.sendall(REQUEST.replace(b"/", b"/large", 1) * n_requests)
        time.sleep(1.5)
        n_read = 0
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(2**20):
                n_read += len(piece)
    assert 0 < n_read < len(LARGE)


def test_a_connection_that_reads_slowly_gets_its_answer(port, monkeypatch):
    monkeypatch.setattr(connections, "SECONDS_FOR_READING", 60)
    with connect(port) as connection:
        connection.sendall(REQUEST.replace(b"/", b"/large", 1))
        time.sleep(1)
        n_read = 0
        while n_read < len(LARGE):
            n_read += len(connection.recv(2**20))


def test_a_new_connection_displaces_the_oldest_one_without_a_whole_request(port, monkeypatch):
    """So nobody can keep others out by connections that send nothing, or half a request."""
    monkeypatch.setattr(connections, "most_connections", lambda: 2)
    monkeypatch.setattr(connections, "SECONDS_FOR_HEADERS", 60)
    with connect(port) as first, connect(port) as second:
        first.sendall(b"POST /wait HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        time.sleep(0.3)
        second.sendall(REQUEST)
        assert second.recv(1000).startswith(b"HTTP/1.1 204")
        with connect(port) as third:
            third.sendall(REQUEST)
            assert third.recv(1000).startswith(b"HTTP/1.1 204")
            with contextlib.suppress(ConnectionResetError):
                assert first.recv(1) == b""
            second.sendall(REQUEST)
            assert second.recv(1000).startswith(b"HTTP/1.1 204")
