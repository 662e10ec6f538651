"""What stands before every route of a service: who may ask, how much, and what a browser may do with the answer.

It is plain ASGI, because it counts the bytes of a body while they come.
"""

import asyncio
import base64
import binascii
import contextlib
import hmac
import time
from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anomaly_toolbox.service.figures import Figures
from anomaly_toolbox.service.limits import Limits

HEALTH = "/healthz"
MOST_SHOWN = 100  # characters of a header in an answer
LOOPBACK = ("localhost", "127.0.0.1", "::1")
SECONDS_UNTIL_RETRY = 1
SECONDS_TO_DISCARD = 2.0  # the rest of a request that is refused
JSON_MARKS = b"[", b"{", b",", b":"
HEADERS = {
    # The page, its style and its program come from here, pictures also from the browser itself.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Refusal(Exception):
    """A request that gets no other answer than one line.

    Attributes:
        status: the status of the answer.
        headers: more headers of the answer.
    """

    def __init__(self, status: int, line: str, headers: dict[str, str] | None = None):
        super().__init__(line)
        self.status = status
        self.headers = headers or {}

    def answer(self) -> Response:
        """The answer."""
        return PlainTextResponse(f"{self}\n", self.status, self.headers)


def too_busy(reason: str) -> Refusal:
    """The refusal of a request that may be sent again soon."""
    return Refusal(503, f"{reason}; try again", {"Retry-After": str(SECONDS_UNTIL_RETRY)})


ENDING = Refusal(503, "the service ends")


class Rules(NamedTuple):
    """Who may ask.

    Attributes:
        token: whoever asks must know it; None: everybody may ask.
        hosts: the names that addresses of the service may have, in small letters; None: any. They keep out the web
            pages of strangers: a stranger can let a name of theirs lead to this machine, but it is not among these.
    """

    token: str | None
    hosts: Sequence[str] | None


class Guard:
    """Checks requests before an application gets them, and counts the answers.

    Args:
        app: the application.
        rules: who may ask.
        limits: how much may be asked.
        figures: count the answers.
        paths: the paths of the application; answers for all others are counted together.
    """

    def __init__(self, app: ASGIApp, rules: Rules, limits: Limits, figures: Figures, paths: Set[str]):
        self._app, self._rules, self._limits, self._figures, self._paths = app, rules, limits, figures, paths
        self._under_way = _UnderWay()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._is_ending = False

    def refuse_all(self) -> None:
        """Refuses all requests that are not answered yet, and those that still come."""
        self._is_ending = True
        for task in self._tasks:
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or passes it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        headers = Headers(scope=scope)
        task = asyncio.current_task()
        assert task is not None
        body = _Body(receive, headers, self._limits, self._under_way, on_departure=task.cancel)
        if scope["method"] == "HEAD":  # the answer to GET, whose body the server leaves out
            scope = {**scope, "method": "GET"}
        started_at = time.monotonic()
        status = 500
        has_begun = False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                if not (body.is_complete or self._is_ending or "expect" in headers):
                    await body.discard()
                status, has_begun = message["status"], True
                body.release()  # whoever reads the answer slowly does not keep others waiting
                MutableHeaders(scope=message).update(HEADERS)
                if not body.is_complete:
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        self._tasks.add(task)
        try:
            if self._is_ending:
                raise ENDING
            if scope["path"] != HEALTH:
                self._check_who_asks(headers)
            self._check_length(headers)
            await self._app(scope, body.receive, send_with_headers)
        except Refusal as refusal:
            if not has_begun:
                await refusal.answer()(scope, receive, send_with_headers)
        except asyncio.CancelledError:
            if not (self._is_ending or body.has_left):
                raise
            task.uncancel()
            if not (has_begun or body.has_left):
                await ENDING.answer()(scope, receive, send_with_headers)
        finally:
            self._tasks.discard(task)
            body.release()
            if status == 503:
                self._figures.refusals.inc()
            self._figures.requests.labels(path, str(status)).inc()
            self._figures.seconds.labels(path).observe(time.monotonic() - started_at)

    def _check_who_asks(self, headers: Headers) -> None:
        host = headers.get("host", "")
        if self._rules.hosts is not None and _name_of(host) not in self._rules.hosts:
            raise Refusal(421, f"the host {host[:MOST_SHOWN]!r} is not allowed; start the service with --allow-host")
        origin = headers.get("origin")
        if origin is not None and _host_of(origin) != host:
            raise Refusal(403, f"pages of {origin[:MOST_SHOWN]!r} may not use this service")
        if self._rules.token is not None and not _has_token(headers.get("authorization", ""), self._rules.token):
            raise Refusal(
                401,
                "expected the header 'Authorization: Bearer TOKEN', or the token as password",
                {"WWW-Authenticate": 'Basic realm="anomaly-box", charset="UTF-8"'},
            )

    def _check_length(self, headers: Headers) -> None:
        size = int(headers.get("content-length", 0))  # the server has refused other values
        if size > self._limits.request_bytes:
            raise Refusal(413, f"the request has {size:,} bytes; expected at most {self._limits.request_bytes:,}")


class _UnderWay:
    """How many bytes of requests have come that are not answered."""

    n_bytes = 0


class _Body:
    """The body of a request as it comes, which must not become larger or take longer than allowed.

    Attributes:
        is_complete: whether all of it has come.
        has_left: whether the client has left without waiting for the answer.
    """

    def __init__(
        self,
        receive: Receive,
        headers: Headers,
        limits: Limits,
        under_way: _UnderWay,
        on_departure: Callable[[], object],
    ):
        self._on_departure = on_departure
        self._watching: asyncio.Task[None] | None = None
        self.has_left = False
        self._receive, self._limits, self._under_way = receive, limits, under_way
        self._is_form = headers.get("content-type", "").lower().startswith("multipart/")
        self._n_bytes = 0
        self._n_marks = 0
        self.is_complete = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        self._ends_at = time.monotonic() + limits.seconds_to_arrive

    async def receive(self) -> Message:
        """The next piece; after the last one, it waits until the other side leaves."""
        if self.is_complete:
            return await self._receive()
        limits = self._limits
        try:
            message = await asyncio.wait_for(self._receive(), self._ends_at - time.monotonic())
        except TimeoutError:
            raise Refusal(408, f"the request did not arrive within {limits.seconds_to_arrive:g} seconds") from None
        piece = message.get("body", b"")
        self._n_bytes += len(piece)
        self._under_way.n_bytes += len(piece)
        if not self._is_form:
            self._n_marks += sum(piece.count(mark) for mark in JSON_MARKS)
        if self._n_bytes > limits.request_bytes:
            raise Refusal(413, f"the request has more than {limits.request_bytes:,} bytes")
        if self._n_marks > limits.json_marks:
            raise Refusal(413, f"the body has more than {limits.json_marks:,} brackets, commas and colons")
        if self._under_way.n_bytes > limits.bytes_under_way:
            raise too_busy("too many requests are under way")
        self.is_complete = not message.get("more_body", False)
        if self.is_complete:
            self._watching = asyncio.create_task(self._await_departure())
        return message

    async def _await_departure(self) -> None:
        """Nobody is kept waiting by the images of a client that has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.has_left = True
        self._on_departure()

    async def discard(self) -> None:
        """Reads the rest for a while: many clients only read an answer when they have sent their whole request."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SECONDS_TO_DISCARD):
                while not self.is_complete:
                    message = await self._receive()
                    self.is_complete = not message.get("more_body", False)

    def release(self) -> None:
        """Says that the bytes are no longer needed; a second call does nothing."""
        if self._watching is not None:
            self._watching.cancel()
        self._under_way.n_bytes -= self._n_bytes
        self._n_bytes = 0


def _name_of(host: str) -> str | None:
    """The name in a header `Host`, in small letters, without the port and a last dot."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return None


def _host_of(origin: str) -> str | None:
    """The host and port of an origin, as in a header `Host`."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _has_token(authorization: str, token: str) -> bool:
    """Whether a header has the token, as a bearer token or as the password of any user."""
    scheme, _, text = authorization.partition(" ")
    received = text.strip().encode("latin-1")  # as it came; headers are read as Latin-1
    if scheme.lower() == "basic":
        try:
            received = base64.b64decode(received, validate=True).partition(b":")[2]
        except binascii.Error:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(received, token.encode())
