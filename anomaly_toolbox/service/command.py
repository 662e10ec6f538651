"""The command `anomaly-box serve`: loads a finished run and answers requests until it is told to end."""

import contextlib
import importlib.util
import ipaddress
import os
import re
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.runs import FinishedRun
from anomaly_toolbox.streams import import_tensorflow

NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
SHORTEST_TOKEN = 8  # characters
TOKEN = "--token (or the variable ANOMALY_BOX_SERVE_TOKEN)"
NAME = r"[A-Za-z0-9._-]+"


@dataclass(frozen=True)
class ServiceRequest:
    """What a user asks for.

    Attributes:
        run: the folder of a finished run.
        host: the address to listen at.
        port: the port to listen at; 0: any that is free.
        token: whoever asks must know it; None: everybody on this machine may ask.
        no_token: let everybody ask who reaches the address.
        allowed_hosts: more names that addresses of the service may have, such as that of a proxy.
        name: of the model in KServe's protocol; None: the method's name in small letters.
    """

    run: Path
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    no_token: bool = False
    allowed_hosts: tuple[str, ...] = ()
    name: str | None = None


def serve(request: ServiceRequest, debug: bool = False) -> None:
    """Answers requests for a finished run until the process gets SIGTERM or SIGINT.

    Args:
        request: which run, and for whom.
        debug: show TensorFlow's own messages.

    Raises:
        InputError: the folder holds no finished run, the address needs a token, or the extra `serve` is not installed.
        ToolboxError: the run is damaged, or the address cannot be used.
    """
    for package in NEEDED:
        if importlib.util.find_spec(package) is None:
            raise InputError("serve needs packages that are not installed: pip install 'anomaly-toolbox[serve]'")
    host = request.host.strip("[]")  # brackets are for addresses of IPv6 in URLs
    is_local = _is_local(host)
    _check_token(request, is_local)
    allowed_hosts = [_checked_name(name) for name in request.allowed_hosts]
    if request.name is not None and not re.fullmatch(NAME, request.name):
        raise InputError(f"--name {request.name}: expected letters, digits and . _ -")
    finished_run = FinishedRun.open(request.run)
    model_name = request.name or finished_run.method.lower()
    listener = _listen(host, request.port)
    signal.signal(signal.SIGTERM, _end)  # the first process of a container would not end by itself while it loads
    import_tensorflow(debug)

    import numpy as np

    from anomaly_toolbox.inference.detector import Detector
    from anomaly_toolbox.service.app import make_app
    from anomaly_toolbox.service.guard import LOOPBACK, Rules
    from anomaly_toolbox.service.limits import Limits
    from anomaly_toolbox.service.scorer import Scorer
    from anomaly_toolbox.service.server import Server

    detector = Detector(request.run)
    detector.score_images([np.zeros(detector.image_shape, np.float32)])  # compiles, before anybody waits for it
    limits = Limits()
    scorer = Scorer(detector, limits)
    hosts = (*LOOPBACK, host.lower(), *allowed_hosts) if is_local or allowed_hosts else None
    app = make_app(scorer, model_name, Rules(request.token, hosts), limits)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _do_nothing)  # while the server runs, it has handlers of its own
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"serving {model_name} at http://{shown}:{listener.getsockname()[1]} (Ctrl-C ends it)", err=True)
    Server(app, debug).run(sockets=[listener])
    click.echo("ended", err=True)
    if scorer.is_alive:
        # A batch is still being scored, for a minute if it is AnoGAN's. Nobody waits for it, and Python would.
        sys.stderr.flush()
        os._exit(0)


def _is_local(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _checked_name(name: str) -> str:
    """A name of `--allow-host` as the service compares it."""
    checked = name.lower().strip("[]").removesuffix(".")
    is_address = False
    with contextlib.suppress(ValueError):
        is_address = bool(ipaddress.ip_address(checked))
    if not is_address and not re.fullmatch(r"[a-z0-9._-]+", checked):
        raise InputError(f"--allow-host {name}: expected a name such as score.example.org, without http:// and port")
    return checked


def _check_token(request: ServiceRequest, is_local: bool) -> None:
    token = request.token
    if token is not None and request.no_token:
        raise InputError(f"{TOKEN} and --no-token are both given; expected one of them")
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise InputError(f"{TOKEN}: has {len(token)} characters, expected at least {SHORTEST_TOKEN}")
    if token is not None and not re.fullmatch(r"[!-~]+", token):
        raise InputError(f"{TOKEN}: expected letters, digits and signs of ASCII, without spaces")
    if token is None and not is_local and not request.no_token:
        raise InputError(
            f"--host {request.host}: other machines may reach it; "
            "expected --token TOKEN, or --no-token if everybody may ask"
        )


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise ToolboxError(f"--host {host} --port {port}: cannot be used ({reason})") from problem
    return listener


def _end(number: int, frame: object) -> None:
    """What a signal does before the service answers."""
    click.echo("ended", err=True)
    raise SystemExit(0)


def _do_nothing(number: int, frame: object) -> None:
    """What a signal does after the service has ended."""
