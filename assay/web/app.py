"""create: the application. Each subject is a file beside this one with a `router`; its name stands in SUBJECTS."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from assay import provenance
from assay.errors import AssayError, BadFile, BadInput, Busy, MissingFile, Unavailable, UnknownName
from assay.web import guard
from assay.web.shelf import Shelf

SUBJECTS = (
    "overview",
    "results",
    "coders",
    "latents_table",
    "latents",
    "passages",
    "lists",
    "compare",
    "ratings",
    "live",
    "export",
)
STATIC = Path(__file__).with_name("static")
DATA = (".json", ".bin", ".csv", ".html", ".js", ".css", ".map")
"""Ends of addresses that are no pages."""
STATUS: tuple[tuple[type[AssayError], int], ...] = (
    (UnknownName, 404), (MissingFile, 404), (BadInput, 400), (Busy, 409), (Unavailable, 503), (BadFile, 500),
)  # fmt: skip
"""What an error is to HTTP; the first that fits counts."""


REFUSALS = (400, 401, 403, 404, 409, 413, 415, 422, 503)
SAID: dict[str, Any] = {
    "description": "Refused, and why.",
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
}


def create(
    shelf: Shelf, *, hosts: tuple[str, ...] = guard.LOCAL, token: str | None = None, static: Path = STATIC
) -> FastAPI:  # fmt: skip
    """The application over a store. `hosts`: Host headers that are answered; `token`: what every request must carry, if anything;
    `static`: where the built pages are."""
    app = FastAPI(
        title="Assay", version=provenance.package_version(), docs_url=None, redoc_url=None, generate_unique_id_function=_name,
        responses=dict.fromkeys(REFUSALS, SAID),
    )  # fmt: skip
    app.state.shelf, app.state.token, app.state.static = shelf, token, static
    guard.protect(app, hosts, token)
    app.add_exception_handler(AssayError, _refused)
    app.add_exception_handler(HTTPException, _not_http)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.openapi = lambda: _schema(app)
    for subject in SUBJECTS:
        app.include_router(importlib.import_module(f"assay.web.{subject}").router)
    app.mount("/assets", StaticFiles(directory=static / "assets", check_dir=False), name="assets")
    app.add_api_route("/{page:path}", _pages(static), include_in_schema=False, response_model=None)
    return app


def _name(route: APIRoute) -> str:
    """Names of operations, and so of the types that the pages are written with, are those of the functions."""
    return route.name


def _pages(static: Path) -> Callable[[str], Response]:
    def page(page: str) -> Response:
        """Every page is the same file, which then asks for the page's data."""
        if page.endswith(DATA):
            return JSONResponse(guard.said("UnknownName", f"Nothing is at /{page}."), 404)
        if not (static / "index.html").exists():
            raise MissingFile("The pages were not built: run `make web` in the repository (needs Node 20).")
        return FileResponse(static / "index.html", headers={"Cache-Control": "no-cache"})

    return page


def _schema(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, with the one form of all refusals."""
    document = FastAPI.openapi(app)
    parts = document.setdefault("components", {}).setdefault("schemas", {})
    parts["Refusal"] = guard.Refusal.model_json_schema()
    for unused in ("HTTPValidationError", "ValidationError"):
        parts.pop(unused, None)
    return document


def _not_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse(guard.said("BadInput", str(error.detail)), error.status_code, headers=error.headers)


def _not_valid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
    return JSONResponse(guard.said("BadInput", "; ".join(found)[:2000]), 422)


def _refused(request: Request, error: Exception) -> JSONResponse:
    status = next((code for kind, code in STATUS if isinstance(error, kind)), 500)
    return JSONResponse(guard.said(type(error).__name__, str(error)), status)
