"""The pictures in README, taken of a real ledger in a real browser.

    python -m tests.screenshots LEDGER

LEDGER needs a model, for the page on which it is asked; tests/pictures is written to.
"""

import argparse
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Page

from ledger.page.report import report
from ledger.workspace import open_ledger
from tests.browser import launched
from tests.serving import Served, serving

PICTURES = Path(__file__).parent / "pictures"
PROMPT, TURN = "The Mona Lisa was painted by", "2"
_WIDTH, _HEIGHT, _COLOURS = 1200, 1250, 128
_PATIENCE = 180_000


def main() -> None:
    """Take all of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.screenshots", description=main.__doc__)
    parser.add_argument("ledger", type=Path)
    folder = parser.parse_args().ledger
    PICTURES.mkdir(exist_ok=True)
    with launched() as browser, tempfile.TemporaryDirectory() as temporary:
        page = browser.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
        page.set_default_timeout(_PATIENCE)
        _report(page, folder, Path(temporary))
        with serving(folder, "--model") as served:
            _try(page, served)


def _report(page: Page, folder: Path, temporary: Path) -> None:
    with open_ledger(folder) as ledger:
        html = report(ledger).to_html()
    file = temporary / "report.html"
    file.write_text(html, encoding="utf-8")
    page.goto(file.as_uri())
    _take(page, "report")


def _try(page: Page, served: Served) -> None:
    page.goto(f"{served.url}try?token={served.token}")
    page.goto(f"{served.url}try?{urlencode({'prompt': PROMPT, 'turn': TURN})}")
    page.get_by_role("heading", name="Edits like this prompt").wait_for()
    _take(page, "try")


def _take(page: Page, name: str) -> None:
    """In few colours: a picture of text loses nothing by it."""
    path = PICTURES / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(_COLOURS)
    small.save(path, optimize=True)


if __name__ == "__main__":
    main()
