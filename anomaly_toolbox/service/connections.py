"""Connections that send no request or do not read their answer are closed; uvicorn would keep them for ever.

Each of them takes one of the files that the process can open, and an answer that nobody reads takes memory.
"""

import asyncio
import resource
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS_FOR_HEADERS = 10.0
SECONDS_FOR_READING = 60.0
MOST_CONNECTIONS = 500


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection without a complete request or with an unread answer.

    Beyond the most connections, it closes the one that has waited longest for a complete request.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._until_request = _Timer(self._give_up_request)
        self._until_read = _Timer(self._give_up_answer)

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol.connection_made`."""
        super().connection_made(transport)
        self._made_at = self.loop.time()
        if len(self.connections) > most_connections():
            self._oldest_without_request().transport.abort()
        self._until_request.start(self.loop, SECONDS_FOR_HEADERS)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol.data_received`."""
        if not self._has_unread_answer():
            self._until_read.stop()
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._until_request.start(self.loop, SECONDS_FOR_HEADERS)
        else:
            self._until_request.stop()

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol.pause_writing`."""
        super().pause_writing()
        self._await_reading()

    def on_response_complete(self) -> None:
        """See `H11Protocol`: the answer is complete, but perhaps not sent."""
        super().on_response_complete()
        self._await_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol.connection_lost`."""
        self._until_request.stop()
        self._until_read.stop()
        super().connection_lost(exc)

    def _oldest_without_request(self) -> "ImpatientProtocol":
        """The connection that has waited longest for a complete request; this one if all others have one."""
        connections: set[Any] = self.connections  # all of this class
        waiting = [connection for connection in connections if connection._is_without_request()]
        oldest: ImpatientProtocol = min(waiting, key=lambda connection: connection._made_at)
        return oldest

    def _is_without_request(self) -> bool:
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _give_up_request(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _await_reading(self) -> None:
        if self._has_unread_answer():
            self._until_read.start(self.loop, SECONDS_FOR_READING)

    def _give_up_answer(self) -> None:
        if self._has_unread_answer():
            self.transport.abort()

    def _has_unread_answer(self) -> bool:
        """Whether more of an answer waits than the other side and the systems between have taken."""
        return self.transport.get_write_buffer_size() > 0


class _Timer:
    """Calls a function after some time, unless it is stopped before.

    To start it while it runs does nothing: single bytes and more requests must not prolong the time.
    """

    def __init__(self, action: Callable[[], None]):
        self._action = action
        self._handle: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        if self._handle is None:
            self._handle = loop.call_later(seconds, self._fire)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _fire(self) -> None:
        self._handle = None
        self._action()


def most_connections() -> int:
    """How many connections may be open at the same time: at most half of the files that the process may open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if limit == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, limit // 2)
