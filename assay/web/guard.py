"""guard: who may ask, and how much. Host names, a token, other sites' requests, sizes; headers that keep hostile text harmless."""

from __future__ import annotations

import secrets
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("localhost", "127.0.0.1", "[::1]")
BODY = 2**20
"""Bytes of a request's body that are read at most."""
COOKIE = "assay_token"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}  # fmt: skip


class Refusal(BaseModel):
    """Why a request was not answered."""

    error: str
    """Kind of error, as in assay.errors."""
    message: str
    """What was got, what was expected, what to do."""


def said(error: str, message: str) -> dict[str, Any]:
    """A refusal's JSON."""
    return Refusal(error=error, message=message).model_dump()


def protect(app: FastAPI, hosts: tuple[str, ...], token: str | None) -> None:
    """Put the guards before an application, the outermost last."""
    app.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=5)
    app.add_middleware(Guard, token=token)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)


class Guard:
    """Refuses requests without the token, writes from other sites, and bodies that are too large."""

    def __init__(self, app: ASGIApp, token: str | None):
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, headers = Request(scope), Headers(scope=scope)
        refusal = self._asked_in(request) or self._foreign(request, headers) or self._too_large(headers)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        await self.app(scope, _bounded(receive), _with_headers(send))

    def _asked_in(self, request: Request) -> JSONResponse | RedirectResponse | None:
        """None for who has the token; a link with `?token=` is answered by a cookie and the same page without it."""
        if self.token is None:
            return None
        if (given := request.query_params.get("token")) is not None and _same(given, self.token):
            answer = RedirectResponse(str(request.url.remove_query_params("token")), 303)
            # lax, so that the link also opens from a chat or a wiki; writes are guarded by origin and content type
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="lax", secure=request.url.scheme == "https")
            return answer
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if any(_same(found, self.token) for found in (bearer, request.cookies.get(COOKIE, ""))):
            return None
        return JSONResponse(
            said("BadInput", "This store is shown only to who has its link: open the one that `assay serve` printed."), 401
        )

    def _foreign(self, request: Request, headers: Headers) -> JSONResponse | None:
        """A page of another site must not write, nor make the model work, through its visitor's browser."""
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return None
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return JSONResponse(said("BadInput", f"A page of {origin} may not write here."), 403)
        kind = headers.get("content-type", "").partition(";")[0].strip()
        if headers.get("content-length", "0") != "0" and kind != "application/json":
            return JSONResponse(said("BadInput", f"The body is of type {kind or 'none'}; only application/json is read."), 415)
        return None

    def _too_large(self, headers: Headers) -> JSONResponse | None:
        length = headers.get("content-length", "0")
        if length.isascii() and length.isdigit() and int(length) <= BODY:
            return None
        return JSONResponse(said("BadInput", f"The body has {length} bytes; at most {BODY} are read."), 413)


def _same(given: str, expected: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "replace"), expected.encode())


def _bounded(receive: Receive) -> Receive:
    """What is received, cut off where a body without a length grows beyond bounds."""
    seen = 0

    async def inner() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > BODY else message

    return inner


def _with_headers(send: Send) -> Send:
    async def inner(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return inner
