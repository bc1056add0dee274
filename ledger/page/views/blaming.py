"""Which edits are behind a prompt or subject."""

from ledger.blaming import Blame, blame
from ledger.page.choices import choices, prompts
from ledger.page.paging import Part
from ledger.page.site import Asked, Content, Site
from ledger.searching import near

_NEAR = 5


def add(site: Site) -> None:
    """Add the page."""

    def found(asked: Asked, prompt: str, at: str) -> Blame:
        question = ("blame", prompt, at)
        return site.kept.of(
            asked.ledger, question, lambda: blame(asked.ledger, prompt, at=at or None)
        )

    @site.page("/blame", "blame.html", section="blame")
    def blaming(asked: Asked) -> Content:
        prompt, at = asked.text("prompt"), asked.text("at")
        content: Content = {"prompt": prompt, "at": at, "choices": choices(site, asked)}
        if not prompt:
            return {**content, "examples": prompts(site, asked), "edits": [], "near": []}
        hits = found(asked, prompt, at)
        page = Part(number=asked.number("page", 1), total=len(hits.edits))
        return {
            **content,
            "is_prompt": hits.is_prompt,
            "without_text": hits.without_text,
            "page": page.to_json(),
            "edits": [edit.to_json() for edit in hits.edits[page.start : page.stop]],
            "near": [] if hits.edits else _near(asked, prompt, at),
        }


def _near(asked: Asked, prompt: str, at: str) -> list[Content]:
    return [one.to_json() for one in near(asked.ledger, prompt, at=at or None, count=_NEAR)]
