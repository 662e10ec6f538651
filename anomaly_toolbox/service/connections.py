"""Connections that send no request or do not read their answer are closed; uvicorn would keep them for ever.

Each of them takes one of the files that the process can open, and an answer that nobody reads takes memory.
"""

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

SECONDS_FOR_HEADERS = 10.0
SECONDS_FOR_READING = 60.0
MOST_CONNECTIONS = 500


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection without a complete request, with an unread answer, or beyond the most."""

    _until_request: asyncio.TimerHandle | None = None
    _until_read: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol.connection_made`."""
        super().connection_made(transport)
        if len(self.connections) > most_connections():
            transport.abort()
            return
        self._await_request()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol.data_received`."""
        if not self._has_unread_answer():
            self._until_read = _stopped(self._until_read)
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._await_request()
        else:
            self._until_request = _stopped(self._until_request)

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
        self._until_request = _stopped(self._until_request)
        self._until_read = _stopped(self._until_read)
        super().connection_lost(exc)

    def _await_request(self) -> None:
        """Starts the timer, unless it runs already: single bytes must not start it anew."""
        if self._until_request is None:
            self._until_request = self.loop.call_later(SECONDS_FOR_HEADERS, self._give_up_request)

    def _give_up_request(self) -> None:
        self._until_request = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _await_reading(self) -> None:
        """Starts the timer, unless it runs already: more requests without reading must not start it anew."""
        if self._until_read is None and self._has_unread_answer():
            self._until_read = self.loop.call_later(SECONDS_FOR_READING, self._give_up_answer)

    def _give_up_answer(self) -> None:
        self._until_read = None
        if self._has_unread_answer():
            self.transport.abort()

    def _has_unread_answer(self) -> bool:
        """Whether more of an answer waits than the other side and the systems between have taken."""
        return self.transport.get_write_buffer_size() > 0


def _stopped(timer: asyncio.TimerHandle | None) -> None:
    """Stops a timer, and is what remains of it."""
    if timer is not None:
        timer.cancel()


def most_connections() -> int:
    """How many connections may be open at the same time: at most half of the files that the process may open."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_CONNECTIONS if limit == resource.RLIM_INFINITY else min(MOST_CONNECTIONS, limit // 2)
