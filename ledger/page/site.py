"""What all pages have in common: a page is a function from a request to JSON values, and a template
that shows them."""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any
from urllib.parse import quote, urlencode

from flask import Flask, after_this_request, jsonify, make_response, request
from flask import Response as Answer
from werkzeug.exceptions import BadRequest, HTTPException, NotFound
from werkzeug.wrappers import Response

from ledger.page.access import wants_json
from ledger.page.kept import Kept
from ledger.page.pictures import each
from ledger.page.rendering import render
from ledger.workspace import Ledger, current_branch
from patches.errors import (
    DatabaseError,
    EditLedgerError,
    HistoryError,
    SettingError,
    StoreError,
)

Content = dict[str, Any]
_FARTHEST = 10**6
_SOON = 3
_STATUS: tuple[tuple[type[EditLedgerError], int], ...] = (
    (HistoryError, 404),
    (SettingError, 400),
    (DatabaseError, 503),
    (StoreError, 503),
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request: the ledger at the branch that it is about. chosen: the branch that its address
    names, None for the one that commands work on."""

    ledger: Ledger
    chosen: str | None

    def text(self, name: str) -> str:
        """A parameter, without spaces around it; empty if it was not given."""
        return request.args.get(name, "").strip()

    def texts(self, name: str) -> list[str]:
        """A parameter that may be given several times; without empty ones."""
        found = (text.strip() for text in request.args.getlist(name))
        return [text for text in found if text]

    def number(self, name: str, default: int, *, least: int = 1) -> int:
        """A parameter that counts something. Raises BadRequest if it is none."""
        text = self.text(name)
        if not text:
            return default
        is_number = text.isascii() and text.isdecimal() and len(text) <= len(str(_FARTHEST))
        if not is_number or not least <= int(text) <= _FARTHEST:
            raise BadRequest(f"{name} is a number from {least} to {_FARTHEST:,}, not {text[:40]!r}")
        return int(text)

    def is_set(self, name: str) -> bool:
        """Whether a box is ticked."""
        return self.text(name) not in ("", "0", "no")


@dataclass(kw_only=True)
class Site:
    """The application, and what its pages share. has_model: prompts can be asked, on `device`, in
    `dtype`. branch: the one to show where an address names none; None: the one that commands work
    on."""

    app: Flask
    ledger: Ledger
    has_model: bool
    branch: str | None
    device: str
    dtype: str | None
    kept: Kept

    def page(self, rule: str, template: str, *, section: str = "") -> Callable[..., Any]:
        """Make a function the page at `rule`, shown by `template`, and its JSON at `rule`.json.

        It takes an `Asked` and the parts of the rule, and returns what there is to say.
        section: the entry of the menu that it belongs to.
        """

        def add(view: Callable[..., Content]) -> Callable[..., Content]:
            def answer(**parts: Any) -> Response:
                asked = self.asked()
                return self._answer(template, view(asked, **parts), asked, section)

            name = f"{view.__module__}.{view.__name__}"
            self.app.add_url_rule(rule, name, answer)
            self.app.add_url_rule(f"{rule.rstrip('/') or '/overview'}.json", f"{name}.json", answer)
            return view

        return add

    def asked(self) -> Asked:
        """The request at hand. Its ledger shares the database connections of all others."""
        ledger = copy(self.ledger)
        chosen = request.args.get("branch", "").strip() or None
        ledger.branch = chosen or self.branch or current_branch(ledger.folder)
        return Asked(ledger=ledger, chosen=chosen)

    def _answer(self, template: str, content: Content, asked: Asked, section: str) -> Response:
        if wants_json():
            return jsonify(content)
        here = Here(site=self, branch=asked.ledger.branch, chosen=asked.chosen, section=section)
        return make_response(render(template, {"c": content, "here": here}))

    def soon(self, asked: Asked, key: str, make: Callable[[], Content]) -> Content:
        """What `make` gives, as `Kept.soon` has it. is_current: whether it is of the ledger as it
        is; if not, the browser looks again."""
        content, is_current = self.kept.soon(asked.ledger, key, make)
        if not is_current:
            look_again(_SOON)
        return {**content, "is_current": is_current}

    def wait(self) -> Response:
        """The page of what is being put together."""
        look_again(_SOON)
        if wants_json():
            return make_response(jsonify({"is_current": False}), 202)
        here = Here(site=self, branch="", chosen=None, section="")
        return make_response(render("coming.html", {"c": {}, "here": here}), 202)

    def fail(self, error: Exception) -> Response:
        """The page of an error."""
        status, what = status_of(error)
        content = {"error": what, "status": status}
        if wants_json():
            return make_response(jsonify(content), status)
        here = Here(site=self, branch="", chosen=None, section="")
        return make_response(render("error.html", {"c": content, "here": here}), status)


@dataclass(frozen=True, kw_only=True)
class Here:
    """What the frame of a page shows."""

    site: Site
    branch: str
    chosen: str | None
    section: str

    @property
    def name(self) -> str:
        """The ledger's, after the folder that it is in."""
        folder = self.site.ledger.folder
        return PurePath(folder).parent.name if folder.name == ".ledger" else folder.name

    @property
    def has_model(self) -> bool:
        return self.site.has_model

    @property
    def json(self) -> str:
        """The address of this page for programs."""
        path = quote(request.path.rstrip("/") or "/overview")
        query = urlencode(list(request.args.items(multi=True)))
        return f"{path}.json" + (f"?{query}" if query else "")

    def link(self, path: str, **parameters: object) -> str:
        """The address of another page, of the same branch if this page's address names one."""
        given = {k: v for k, v in parameters.items() if v not in (None, "", False)}
        if self.chosen and "branch" not in given:
            given["branch"] = self.chosen
        return quote(path) + (f"?{urlencode(given, doseq=True)}" if given else "")

    def pictures(self, kind: str) -> dict[str, dict[str, str]]:
        """The addresses of a chart, see `ledger.page.pictures`."""
        path = f"/plots/{kind}.svg"
        return each(lambda theme, size: self.link(path, theme=theme, size=size))

    def again(self, **parameters: object) -> str:
        """The address of this page with some parameters changed."""
        given: Mapping[str, object] = {**request.args.to_dict(), **parameters}
        kept = {k: v for k, v in given.items() if v not in (None, "", False)}
        return quote(request.path) + (f"?{urlencode(kept)}" if kept else "")


def look_again(seconds: int) -> None:
    """Have the browser load the page again, without a script."""

    @after_this_request
    def refresh(response: Answer) -> Answer:
        response.headers["Refresh"] = str(seconds)
        return response


def status_of(error: Exception) -> tuple[int, str]:
    """The status and the sentence for an error."""
    if isinstance(error, NotFound) and error.description == NotFound.description:
        return 404, "there is no such page"
    if isinstance(error, HTTPException):
        return error.code or 500, error.description or error.name
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status, str(error)
    if isinstance(error, EditLedgerError):
        return 500, str(error)
    return 500, "something went wrong here; the terminal of ledger serve has the details"
