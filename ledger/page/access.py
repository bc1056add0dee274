"""Who may look: whoever has the token that `ledger serve` printed, from this very address.

The token comes in the address of the first page, as a bearer token, or typed into a form; after
that a cookie has it. Answers forbid scripts and styles but our own, frames, and other origins.
"""

import hmac
from ipaddress import ip_address
from urllib.parse import quote, urlencode, urlsplit

from flask import Flask, Response, abort, make_response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from ledger.page.rendering import render

ENTRY = "/enter"
_PARAMETER = "token"
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def guard(app: Flask, *, token: str, hosts: frozenset[str]) -> None:
    """Let nobody in without `token`, nor under another name of this machine than `hosts`: another
    site could give itself our address, and read in the browser of whoever visits it. Addresses in
    numbers are let in always: nobody can give them to another machine."""

    @app.before_request
    def check() -> AnyResponse | None:
        name, _ = _asked_host()
        if hosts and name not in hosts and not _is_number(name):
            # Without a word about the ledger.
            return _plain("this server does not answer to that name", 400)
        if _is_for_another_page():
            return _plain("this server answers no pages but its own", 403)
        if request.endpoint == "static" and request.method in ("GET", "HEAD"):
            return None
        if request.path == ENTRY and request.method == "POST":
            return _enter(token)
        return _checked(token)

    @app.after_request
    def protect(response: Response) -> Response:
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response


def _checked(token: str) -> AnyResponse | None:
    """What to answer instead of the page, if anything."""
    given = request.args.get(_PARAMETER)
    if given is not None and _is(given, token):
        return _let_in(token, _without_token())
    if not _is(_bearer() or request.cookies.get(_cookie(), ""), token):
        return _locked()
    if request.method not in ("GET", "HEAD"):
        abort(405)
    # One of an earlier server, in an address that somebody has kept.
    return None if given is None else redirect(_without_token(), 303)


def _enter(token: str) -> AnyResponse:
    target = _local(request.form.get("next", "/"))
    if _is(request.form.get(_PARAMETER, "").strip(), token):
        return _let_in(token, target)
    return _locked(target, wrong=True)


def _let_in(token: str, target: str) -> AnyResponse:
    response = redirect(target, 303)
    response.set_cookie(_cookie(), token, httponly=True, samesite="Lax", path="/")
    return response


def _locked(target: str | None = None, *, wrong: bool = False) -> AnyResponse:
    """What those get to see who have no token, or one of a server that has ended."""
    stale = _cookie() in request.cookies or _PARAMETER in request.args
    content = {
        "next": target or _without_token(),
        "wrong": wrong,
        "stale": stale,
        "error": "a token is needed: open the address that ledger serve printed",
    }
    if wants_json():
        response = make_response({"error": content["error"], "status": 401}, 401)
    else:
        response = make_response(render("locked.html", content), 401)
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _plain(text: str, status: int) -> Response:
    return Response(f"{text}\n", status, content_type="text/plain; charset=utf-8")


def wants_json() -> bool:
    """Whether a program asks."""
    if request.path.endswith(".json"):
        return True
    accepted = request.accept_mimetypes
    return accepted.best_match(("text/html", "application/json")) == "application/json"


def _is(given: str, token: str) -> bool:
    """Compared in a time that tells nothing of how much of it is right."""
    return hmac.compare_digest(_bytes(given), _bytes(token))


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _bearer() -> str | None:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


def _asked_host() -> tuple[str, int | None]:
    """The name and port under which we are asked; an empty name for what is none."""
    try:
        parts = urlsplit(f"//{request.host}")
        return parts.hostname or "", parts.port
    except ValueError:
        return "", None


def _is_for_another_page() -> bool:
    """Whether a browser asks for a part of a page of another server, not as one follows a link. One
    at another port of this host would be sent our cookie along."""
    origin = request.headers.get("Sec-Fetch-Site", "none")
    is_link = request.headers.get("Sec-Fetch-Mode") == "navigate"
    return origin not in ("none", "same-origin") and not is_link


def _is_number(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _cookie() -> str:
    """Its name: cookies are shared by all ports of a host."""
    _, port = _asked_host()
    return f"edit-ledger-{port or 80}"


def _without_token() -> str:
    """The page that is asked for, as a link on this server."""
    if request.path == ENTRY:
        return "/"
    arguments = [(k, v) for k, v in request.args.items(multi=True) if k != _PARAMETER]
    query = f"?{urlencode(arguments)}" if arguments else ""
    return _local(quote(request.path) + query)


def _local(target: str) -> str:
    """A target on this server; the first page for whatever is none."""
    # A browser takes //host and /\host for another server, and leaves out tabs and ends of lines.
    is_local = target.startswith("/") and target[1:2] not in ("/", "\\") and target.isprintable()
    return target if is_local else "/"
