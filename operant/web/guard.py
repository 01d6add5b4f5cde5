"""Who may ask, and the headers of every answer.

A page on the internet can make a visitor's browser ask a server on the visitor's own machine.  Three things keep it
out: the Host must be a name of this machine (else a foreign name could be pointed here: DNS rebinding), an Origin must
be this server's own, and a browser that says that a request comes from another site is believed, unless that was a link
which was followed.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; media-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'"
)
HEADERS = {
    "content-security-policy": f"{POLICY}; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI middleware. `host`: what the server is bound to; `token`: what a visitor must show, or none."""

    def __init__(self, app: Any, host: str = "127.0.0.1", token: str = ""):
        self.app, self.host, self.token = app, host, token
        self._names = {"localhost", host.lower()} - {""}
        if not is_loopback(host):
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Any, receive: Callable, send: Callable[[Any], Awaitable[None]]) -> None:
        if scope["type"] != "http":  # there are no web sockets here
            return

        async def send_guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                there = {name.lower() for name, _ in message["headers"]}
                extra = [(k.encode(), v.encode()) for k, v in HEADERS.items() if k.encode() not in there]
                if b"cache-control" not in there:
                    extra.append((b"cache-control", b"no-store"))
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        refusal = self._refusal(HTTPConnection(scope))
        await (refusal or self.app)(scope, receive, send_guarded)

    def _refusal(self, request: HTTPConnection) -> Response | None:
        """The answer to one who may not ask; None for one who may."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return PlainTextResponse("This server does not go by that name.\n", 421)
        origin = request.headers.get("origin")
        if origin is not None and origin.lower() != f"{request.url.scheme}://{hosts[0]}".lower():
            return PlainTextResponse("Requests from other sites are not answered.\n", 403)
        followed_a_link = request.headers.get("sec-fetch-mode") == "navigate"
        if request.headers.get("sec-fetch-site") in ("cross-site", "same-site") and not followed_a_link:
            return PlainTextResponse("Requests from other sites are not answered.\n", 403)
        return self._asks_for_token(request) if self.token else None

    def _is_ours(self, header: str) -> bool:
        try:
            name = urlsplit(f"//{header}").hostname or ""
            urlsplit(f"//{header}").port  # noqa: B018  (raises where it is no number)
        except ValueError:
            return False
        if "@" in header or "/" in header:
            return False
        if name in self._names:
            return True
        try:  # a number cannot be pointed elsewhere
            return ipaddress.ip_address(name).is_loopback or not is_loopback(self.host)
        except ValueError:
            return False

    def _asks_for_token(self, request: HTTPConnection) -> Response | None:
        cookie = f"operant-{request.url.port or 80}"  # cookies know no ports: two servers would share one
        bearer = request.headers.get("authorization", "")
        if self._matches(request.cookies.get(cookie, "")) or self._matches(bearer.removeprefix("Bearer ")):
            return None
        if not self._matches(request.query_params.get("token", "")):
            return PlainTextResponse("Open the address that `operant web` printed: it ends in a token.\n", 401)
        rest = urlencode([(k, v) for k, v in request.query_params.multi_items() if k != "token"])
        path = "/" + request.url.path.lstrip("/")  # `//elsewhere` would be another host
        answer = RedirectResponse(path + (f"?{rest}" if rest else ""), 303)
        answer.set_cookie(cookie, self.token, httponly=True, samesite="strict", path="/")
        return answer

    def _matches(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode(), self.token.encode())
