"""The server, which ends within seconds when it is told to.

What is under way gets some seconds to be answered. Then it is refused, and then connections are closed.
"""

import asyncio
import logging
import socket
from types import FrameType

import uvicorn

from anomaly_toolbox.service.connections import ImpatientProtocol
from anomaly_toolbox.service.guard import Guard

SECONDS_TO_ANSWER = 4.0  # what is under way
SECONDS_TO_REFUSE = 1.0  # the rest
SECONDS_UNTIL_CANCELLED = 9  # by uvicorn; Docker kills after ten


class Server(uvicorn.Server):
    """Answers requests until the process gets SIGTERM or SIGINT.

    Args:
        app: answers the requests.
        debug: also show warnings of uvicorn, such as those about requests that are no HTTP.
    """

    def __init__(self, app: Guard, debug: bool = False):
        config = uvicorn.Config(
            app,
            http=ImpatientProtocol,
            log_level="warning" if debug else "error",
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=SECONDS_UNTIL_CANCELLED,
        )
        super().__init__(config)
        self._guard = app
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # mistakes of clients are answers, not lines

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server`: what a signal does. A second one has everything refused at once."""
        if self.should_exit:
            self._refuse_all()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`: no connection is accepted any more; returns when all are closed."""
        asyncio.get_running_loop().call_later(SECONDS_TO_ANSWER, self._refuse_all)
        await super().shutdown(sockets)

    def _refuse_all(self) -> None:
        self._guard.refuse_all()
        asyncio.get_running_loop().call_later(SECONDS_TO_REFUSE, self._close_connections)

    def _close_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()
