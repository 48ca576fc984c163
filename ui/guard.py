"""What a server refuses before it looks any further: foreign names and too large requests.

A web site can let its own name point to 127.0.0.1 (DNS rebinding). Then a browser that has it open takes a page of this
machine for a part of that site, which reads and changes everything on it. But the browser still says the site's name,
as Host and as Origin, so a server that answers to known names alone is safe. A name without a dot can't be a web
site's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

ANY = "*"
MOST_BODY = 2**20  # bytes
UPLOAD = "/upload"


class Guard:
    """ASGI middleware: 421 for a Host, and 403 for an Origin, that isn't this server's; 413 for too large a body.

    Args:
        app: What is guarded.
        bound: The address the server listens on; unless it is this machine alone, any address may be the Host.
        hosts: Further names; ".example.org" is every name that ends so, "*" is any.
        most: Bytes of a request's body.
        most_upload: Bytes of one whose path ends with "/upload".
    """

    def __init__(
        self,
        app: Any,
        bound: str = "127.0.0.1",
        hosts: Iterable[str] = (),
        most: int = MOST_BODY,
        most_upload: int = MOST_BODY,
    ) -> None:
        self.app, self.most, self.most_upload = app, most, most_upload
        self.is_local = _is_loopback(_name_of(bound))
        self.hosts = {host.lower() for host in (*hosts, _name_of(bound))}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        most = self.most_upload if scope["path"].rstrip("/").endswith(UPLOAD) else self.most
        refused = self._refused(headers, most)
        if refused is None:
            await self.app(scope, _counted(receive, most), send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            code, sentence = refused
            await JSONResponse({"error": sentence, "detail": sentence}, code)(scope, receive, send)

    def _refused(self, headers: Headers, most: int) -> tuple[int, str] | None:
        """Status and sentence for a request that isn't passed on."""
        host, origin = _name_of(headers.get("host", "")), headers.get("origin")
        if not self.knows(host):
            return 421, (
                f"This server doesn't answer to the name {host[:80]!r}; whoever runs it can allow the name "
                "with --allow-host."
            )
        if origin is not None and not self._is_own(_origin_of(origin), host):
            return 403, f"Requests from pages of {origin[:80]!r} are refused."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:20]) > most:
            return 413, _too_large(most)
        return None

    def knows(self, name: str) -> bool:
        """Whether the server answers to this name or address."""
        if _is_loopback(name) or self._is_listed(name):
            return True
        return not self.is_local if _is_address(name) else bool(name) and "." not in name

    def _is_own(self, origin: str, host: str) -> bool:
        return origin == host or _is_loopback(origin) or self._is_listed(origin)

    def _is_listed(self, name: str) -> bool:
        ending = any(host.startswith(".") and name.endswith(host) for host in self.hosts)
        return bool(name) and (name in self.hosts or ending or ANY in self.hosts)


def _origin_of(origin: str) -> str:
    """The host's name in an Origin, or "" for "null" and what is none."""
    scheme, colon, rest = origin.partition("://")
    return _name_of(rest) if colon and scheme in ("http", "https") else ""


def _name_of(host: str) -> str:
    """A Host header without its port, in lower case; "" for what is none."""
    if any(mark in host for mark in "@/\\?# "):
        return ""
    bare = f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host
    try:
        return (urlsplit(f"//{bare}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    if _is_address(name):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost" or name.endswith(".localhost")


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _counted(receive: Any, most: int) -> Any:
    """The body as it comes, which may say nothing of its length or lie about it."""
    seen = 0

    async def counted() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if message["type"] == "http.request" and seen > most:
            raise HTTPException(413, _too_large(most))
        return message

    return counted


def _too_large(most: int) -> str:
    return f"A request has at most {most:,} bytes here."
