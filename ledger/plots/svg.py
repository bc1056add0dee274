"""SVG as matplotlib writes it, made fit to stand in a page.

A page with a strict content security policy takes no ``style``, so what matplotlib puts there
becomes attributes. Ids get a beginning of their own, and what names other places (a document type,
metadata) is left out.
"""

import re
from xml.sax.saxutils import escape

_ROOT = re.compile(r"<svg\b[^>]*>")
_HEAD = re.compile(r"\A.*?(?=<svg\b)", re.DOTALL)
_LEFT_OUT = re.compile(r"\s*(?:<!--.*?-->|<metadata>.*?</metadata>|<style\b.*?</style>)", re.DOTALL)
_STYLE = re.compile(r'\sstyle="([^"]*)"')
_ID = re.compile(r'(\sid="|href="#|url\(#)')
# What the style sheet that is left out says of every element.
_INHERITED = 'stroke-linejoin="round" stroke-linecap="butt"'


def tidied(svg: str, *, name: str, title: str) -> str:
    """The SVG element alone, with a title; every id begins with `name`."""
    text = _LEFT_OUT.sub("", _HEAD.sub("", svg, count=1))
    text = _STYLE.sub(_attributes, text)
    text = _ID.sub(rf"\g<1>{name}-", text)
    return _ROOT.sub(lambda found: _titled(found[0], title), text, count=1)


def _attributes(style: re.Match[str]) -> str:
    """The declarations of a ``style`` as attributes; of several of one property the last."""
    pairs = (one.partition(":") for one in style[1].split(";") if one.strip())
    found = {key.strip(): value.strip() for key, _, value in pairs}
    return "".join(f' {key}="{value}"' for key, value in found.items())


def _titled(root: str, title: str) -> str:
    return f'{root.removesuffix(">")} role="img" {_INHERITED}>\n <title>{escape(title)}</title>'
