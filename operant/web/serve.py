"""The address, the token, and how it ends."""

from __future__ import annotations

import secrets
import signal
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from types import FrameType
from urllib.parse import quote

import uvicorn

from operant.errors import UserError
from operant.web.guard import Guard, is_loopback
from operant.web.site import Site


class _Server(uvicorn.Server):
    """Tells the site that it ends, so that streams which would go on for ever do not hold it up."""

    def __init__(self, config: uvicorn.Config, site: Site):
        super().__init__(config)
        self._site = site

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._site.close()
        super().handle_exit(sig, frame)


def serve(
    runs: str = "runs", results: str = "results", *, host: str = "127.0.0.1", port: int = 8123, token: str = "",
    open_browser: bool = False,
) -> None:  # fmt: skip
    """Serves until it is interrupted. Bound to anything but this machine's own address it asks for a token, and makes
    one where none is given.

    Raises UserError where the address cannot be had.
    """
    if not is_loopback(host) and not token:
        token = secrets.token_urlsafe(24)
    listening = bind(host, port)
    port = listening.getsockname()[1]
    site = Site(Path(runs), Path(results))
    app = Guard(site.app, host, token)
    # one kind of loop and parser, whatever else is installed; what goes wrong in a page is told, access is not
    config = uvicorn.Config(
        app, loop="asyncio", http="h11", ws="none", lifespan="off", log_level="error", access_log=False,
        proxy_headers=False, server_header=False, timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = _Server(config, site)
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname(), "": socket.gethostname()}.get(host, host)
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/" + (f"?token={quote(token)}" if token else "")
    print(f"{address}  (Ctrl-C ends it)", flush=True)
    if open_browser:
        threading.Timer(0.5, webbrowser.open, [address]).start()
    before = signal.getsignal(signal.SIGINT)
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:  # Ctrl-C is how one leaves
        pass
    finally:
        signal.signal(signal.SIGINT, before)
        listening.close()
    sys.stdout.flush()


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UserError, in one line."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port is {port}; expected 0 to 65535")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(128)
    except socket.gaierror:
        raise UserError(f"--host {host}: there is no such address; 127.0.0.1 is this machine alone") from None
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{host}:{port} cannot be had ({why}): name another with --port") from None
    return listening
