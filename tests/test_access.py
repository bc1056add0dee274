"""Who gets to see the pages of a ledger, and what their answers forbid a browser to do."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from ledger.page.app import create_app
from ledger.page.listening import LOOPBACK
from tests.told_edits import edit, new_ledger, record

TOKEN = "right-token-0123456789"
HEADERS = {
    "content-security-policy",
    "x-content-type-options",
    "referrer-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "cache-control",
}
NAME = "name-of-the-ledger"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """The pages of a ledger with one turn."""
    with new_ledger(tmp_path_factory.mktemp("access") / NAME / ".ledger") as ledger:
        record(ledger, [edit("Lima is in", "Peru")])
        yield create_app(ledger, token=TOKEN, hosts=LOOPBACK)


class Client(FlaskClient):
    """A client that reads every answer to its end, so that files are closed."""

    def open(self, *given: Any, **more: Any) -> TestResponse:
        return super().open(*given, **{**more, "buffered": True})


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A browser that knows nothing yet."""
    return Client(app, app.response_class)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def entered(client: FlaskClient) -> FlaskClient:
    """The browser, with the cookie."""
    assert client.get(f"/?token={TOKEN}").status_code == 303
    return client


# The token


def test_without_the_token_no_page_says_anything_of_the_ledger(client: FlaskClient) -> None:
    for path in ("/", "/branches.json", "/nowhere", "/turns/1?branch=main", "/enter", "//", "/%00"):
        answer = client.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert NAME not in answer.text
        assert "Peru" not in answer.text


@pytest.mark.parametrize(
    "token", ["", "wrong", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), "é\u202e🎉"]
)
def test_a_wrong_token_opens_nothing(client: FlaskClient, token: str) -> None:
    assert client.get("/", query_string={"token": token}).status_code == 401
    assert client.post("/enter", data={"token": token}).status_code == 401
    sent = token.encode().decode("latin-1")
    assert client.get("/", headers={"Authorization": f"Bearer {sent}"}).status_code == 401
    assert client.get("/", headers={"Cookie": f"edit-ledger-80={sent}"}).status_code == 401
    assert client.get("/", headers={"Authorization": f"Basic {sent}"}).status_code == 401


def test_bytes_that_are_no_text_open_nothing_and_break_nothing(client: FlaskClient) -> None:
    odd = b"\xff\xfe\x80".decode("latin-1")
    assert client.get("/?token=%FF%FE&%80=%80").status_code == 401
    assert client.get("/", headers={"Authorization": f"Bearer {odd}"}).status_code == 401
    assert client.get("/", headers={"Cookie": f"edit-ledger-80={odd}"}).status_code == 401
    form = "application/x-www-form-urlencoded"
    answer = client.post("/enter", data=b"token=%ff\xff&next=\xfe", content_type=form)
    assert answer.status_code == 401
    entered(client)
    assert client.get("/turns?page=%FF%00&branch=%80").status_code in (400, 404)


def test_a_program_sends_the_token_with_every_request(client: FlaskClient) -> None:
    answer = client.get("/branches.json", headers=bearer(TOKEN))
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers
    assert client.get("/branches.json", headers=bearer("wrong")).json == {
        "error": "a token is needed: open the address that ledger serve printed",
        "status": 401,
    }
    assert client.get("/branches.json").status_code == 401


def test_the_token_leaves_the_address_and_stays_in_a_cookie_of_ours_alone(
    client: FlaskClient,
) -> None:
    answer = client.get(f"/blame?prompt=a%26b&token={TOKEN}&at=1&at=2")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/blame?prompt=a%26b&at=1&at=2"
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("edit-ledger-80=")
    for attribute in ("HttpOnly", "SameSite=Lax", "Path=/"):
        assert attribute in cookie
    assert "Domain" not in cookie
    page = client.get("/branches")
    assert page.status_code == 200
    assert TOKEN not in page.text + client.get("/branches.json").text + str(page.headers)


def test_cookies_of_servers_at_two_ports_of_a_host_do_not_meet(client: FlaskClient) -> None:
    first = client.get(f"/?token={TOKEN}", base_url="http://127.0.0.1:8350")
    assert first.headers["Set-Cookie"].startswith("edit-ledger-8350=")
    assert client.get("/turns", base_url="http://127.0.0.1:8350").status_code == 200
    assert client.get("/", base_url="http://127.0.0.1:8351").status_code == 401


def test_an_old_token_in_an_address_is_left_out_for_who_is_in(client: FlaskClient) -> None:
    entered(client)
    answer = client.get("/turns?page=2&token=of-yesterday")
    assert (answer.status_code, answer.headers["Location"]) == (303, "/turns?page=2")


def test_a_cookie_of_an_ended_server_is_told_and_the_way_back_is_kept(client: FlaskClient) -> None:
    client.set_cookie("edit-ledger-80", "of-yesterday", domain="localhost")
    locked = client.get("/blame?prompt=Lima+is+in")
    assert locked.status_code == 401
    assert "This link needs a new token" in locked.text
    assert 'value="/blame?prompt=Lima+is+in"' in locked.text
    fresh = client.post("/enter", data={"token": f" {TOKEN}\n", "next": "/blame?prompt=Lima+is+in"})
    assert (fresh.status_code, fresh.headers["Location"]) == (303, "/blame?prompt=Lima+is+in")
    assert client.get("/branches").status_code == 200


def test_a_wrong_token_in_the_form_keeps_the_way_back_and_is_not_repeated(
    client: FlaskClient,
) -> None:
    answer = client.post("/enter", data={"token": "guessed-wrongly", "next": "/turns/1"})
    assert "That token is not the right one" in answer.text
    assert 'value="/turns/1"' in answer.text
    assert "guessed-wrongly" not in answer.text


# Ways out


ELSEWHERE = (
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "https://evil.example",
    "javascript:alert(1)",
    "evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "/ok\r\nSet-Cookie: a=b",
    "\n/ok",
    "",
)


@pytest.mark.parametrize("target", ELSEWHERE)
def test_nobody_is_led_to_another_server(client: FlaskClient, target: str) -> None:
    answer = client.post("/enter", data={"token": TOKEN, "next": target})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")
    locked = client.post("/enter", data={"token": "wrong", "next": target})
    assert 'name="next" value="/"' in locked.text


@pytest.mark.parametrize(
    "path", ["//evil.example", "///evil.example/", "/%5Cevil.example", "/%09/evil.example", "//%2F"]
)
def test_the_path_itself_leads_to_no_other_server(client: FlaskClient, path: str) -> None:
    answer = client.get(f"{path}?token={TOKEN}", base_url="http://localhost")
    assert answer.status_code == 303
    assert re.match(r"/(?![/\\])", answer.headers["Location"]), answer.headers["Location"]
    again = entered(client).get(path, base_url="http://localhost")
    assert again.status_code in (303, 308, 404)
    assert "//evil" not in again.headers.get("Location", "").removeprefix("http://localhost")


# Names, methods, headers


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "localhost.", "evil.example:80", "[::1", "a b", "",
     "localhost:99999999", "127.0.0.1.evil.example", "local\u017fost", "evil@localhost\\"],
)  # fmt: skip
def test_under_the_name_of_another_server_nothing_is_told(client: FlaskClient, host: str) -> None:
    """As a site would ask that has given itself our address."""
    sent = host.encode().decode("latin-1")
    entered(client)
    for path in ("/", "/static/page.css", f"/?token={TOKEN}", "/enter"):
        answer = client.get(path, headers={"Host": sent, **bearer(TOKEN)})
        assert answer.status_code == 400, path
        assert NAME not in answer.text
        assert "Set-Cookie" not in answer.headers
        assert "Content-Security-Policy" in answer.headers


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8350", "127.0.0.1:1", "[::1]:8350", "192.0.2.7:8350"]
)
def test_under_its_own_names_and_numbers_it_answers(client: FlaskClient, host: str) -> None:
    assert client.get("/turns", headers={"Host": host, **bearer(TOKEN)}).status_code == 200


@pytest.mark.parametrize("origin", ["cross-site", "same-site"])
@pytest.mark.parametrize("path", ["/search?q=Peru", "/plots/timeline.svg", "/static/page.css"])
def test_pages_of_other_servers_get_no_part_of_ours(
    client: FlaskClient, path: str, origin: str
) -> None:
    client.get("/", query_string={"token": TOKEN})
    asked = {"Sec-Fetch-Site": origin, "Sec-Fetch-Mode": "no-cors"}
    assert client.get(path, headers=asked).status_code == 403
    for known in ({"Sec-Fetch-Mode": "navigate"}, {"Sec-Fetch-Site": "same-origin"}):
        assert client.get(path, headers=asked | known).status_code == 200


def test_under_any_name_where_none_is_given(tmp_path: Path) -> None:
    with new_ledger(tmp_path) as ledger:
        free = create_app(ledger, token=TOKEN).test_client()
        assert free.get("/turns", headers={"Host": "any", **bearer(TOKEN)}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_pages_can_only_be_read(client: FlaskClient, method: str) -> None:
    for path in ("/", "/branches.json", "/static/page.css", "/nowhere"):
        assert client.open(path, method=method).status_code == 401
        answer = client.open(path, method=method, headers=bearer(TOKEN))
        assert answer.status_code == 405, path
    if method != "POST":
        assert client.open("/enter", method=method, headers=bearer(TOKEN)).status_code == 405


def test_head_tells_what_get_would(client: FlaskClient) -> None:
    for path in ("/branches", "/branches.json", "/static/page.css", "/nowhere"):
        get, head = (client.open(path, method=m, headers=bearer(TOKEN)) for m in ("GET", "HEAD"))
        assert head.status_code == get.status_code
        assert head.data == b""
        assert head.headers["Content-Length"] == get.headers["Content-Length"]
    assert client.head("/").status_code == 401


def every_kind_of_answer(client: FlaskClient) -> Iterator[TestResponse]:
    for path in ("/", "/branches.json", "/nowhere", "/nowhere.json", "/turns?page=x", "/enter"):
        yield client.get(path)
        yield client.get(path, headers=bearer(TOKEN))
    yield client.get("/static/page.css")
    yield client.get("/static/nowhere.css")
    yield client.get(f"/?token={TOKEN}")
    yield client.delete("/")
    yield client.post("/enter", data={"token": TOKEN})
    yield client.post("/enter", data={"token": "wrong"})


def test_every_answer_forbids_what_is_not_ours(client: FlaskClient) -> None:
    for answer in every_kind_of_answer(client):
        names = {name.lower() for name in answer.headers.keys()}  # noqa: SIM118 (not a mapping)
        assert names >= HEADERS, answer.request.path
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        if not answer.request.path.startswith("/static"):
            assert answer.headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_an_unexpected_error_tells_nothing_of_its_inside(
    app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**_: object) -> str:
        raise RuntimeError("a secret of the inside")

    [name] = [rule.endpoint for rule in app.url_map.iter_rules() if rule.rule == "/turns"]
    monkeypatch.setitem(app.view_functions, name, broken)
    monkeypatch.setattr(app.logger, "disabled", True)
    answer = client.get("/turns", headers=bearer(TOKEN))
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "the terminal of ledger serve has the details" in answer.text
    assert "Content-Security-Policy" in answer.headers


# Files


@pytest.mark.parametrize(
    "path",
    ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "....//app.py", "..\\app.py", "/etc/passwd",
     "%2fetc%2fpasswd", "../../../../../../etc/passwd", "page.css%00.txt", ".", ""],
)  # fmt: skip
def test_static_files_are_those_of_their_folder_alone(client: FlaskClient, path: str) -> None:
    for headers in ({}, bearer(TOKEN)):
        answer = client.get(f"/static/{path}", headers=headers)
        assert answer.status_code in (308, 401, 404), path
        assert "create_app" not in answer.text
        assert "root:" not in answer.text


def test_long_and_odd_addresses_are_answered(client: FlaskClient) -> None:
    long = "x" * 50_000
    paths = [f"/{long}", f"/?q={long}", f"/turns/{long}", "/turns/%00", "/turns/%F0%9F%8E%89"]
    paths += [f"/turns?page={number}" for number in ("-1", "1e9", "9" * 5000, "٣", "%0A1", "1%00")]
    paths += ["/?" + "&".join(f"a{n}=1" for n in range(2000)), f"/turns/{quote('<script>')}"]
    for path in paths:
        status = client.get(path, headers=bearer(TOKEN)).status_code
        assert status in (200, 202, 400, 404, 414), (path[:60], status)
