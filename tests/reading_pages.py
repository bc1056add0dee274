"""Somebody who reads the pages of a ledger, without a browser."""

from typing import Any

from werkzeug.test import TestResponse

from ledger.page.app import create_app
from ledger.workspace import Ledger

_TOKEN, _PATIENCE = "token-of-a-test", 300.0


class Reader:
    """Asks for pages of a ledger. options: of `ledger.page.app.create_app`."""

    def __init__(self, ledger: Ledger, **options: Any) -> None:
        app = create_app(ledger, token=_TOKEN, **{"patience": _PATIENCE, **options})
        self._client = app.test_client()

    def get(self, address: str) -> TestResponse:
        """The answer to a request for `address`; nothing is followed."""
        return self._client.get(address, headers={"Authorization": f"Bearer {_TOKEN}"})

    def page(self, address: str, status: int = 200) -> str:
        """The page as HTML."""
        answer = self.get(address)
        assert answer.status_code == status, answer.text
        assert answer.mimetype == "text/html"
        return answer.text

    def json(self, address: str, status: int = 200) -> Any:
        """The same page as JSON."""
        path, _, query = address.partition("?")
        answer = self.get(f"{path}.json?{query}")
        assert answer.status_code == status, answer.text
        return answer.json
