"""Suites of `ledger evaluate`: each looks at a state from another side.

A suite that is scored by `ledger.evaluating.evaluate` is a module with a function ``score``: given
what is asked (`ledger.suites.asking`) and a crew, the scores of the state beside those of the base.
"""

from dataclasses import dataclass

from patches.errors import SettingError

EDITS, TEXT, TURNS = "edits", "text", "turns"
"""What a suite is scored on: recorded edits, running text, or turns (as `retention`)."""
TEACHER_FORCED = "teacher-forced"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One way to look at a state. sentence: what it tells, for people. main: its main metric, None
    where metrics are kinds that a dataset brings."""

    name: str
    on: str
    sentence: str
    module: str
    main: str | None


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            name=TEACHER_FORCED,
            on=EDITS,
            sentence="Share of the answers' tokens that are predicted given those before: edits, "
            "rephrasings, locality, and what of locality is as in the base.",
            module="ledger.suites.teacher_forced",
            main="edit_success",
        ),
        Suite(
            name="generation",
            on=EDITS,
            sentence="Share of the edits and rephrasings whose answer the model generates by "
            "itself, greedily, whatever its case, punctuation and articles.",
            module="ledger.suites.generation",
            main="answer_match",
        ),
        Suite(
            name="portability",
            on=EDITS,
            sentence="Teacher-forced accuracy on the further probes that a dataset brings, kind by "
            "kind: personas, several hops, reasoning, aliases, distant prompts.",
            module="ledger.suites.portability",
            main=None,
        ),
        Suite(
            name="retention",
            on=TURNS,
            sentence="What is left of earlier turns: a sample of each turn's edits in the state "
            "after each later turn, a triangle.",
            module="ledger.suites.retention",
            main="edit_success",
        ),
        Suite(
            name="perplexity",
            on=TEXT,
            sentence="Perplexity of running text (--text FILE; by default the beginning of a "
            "novel), for what else the model can do.",
            module="ledger.suites.perplexity",
            main="perplexity",
        ),
        Suite(
            name="general",
            on=TEXT,
            sentence="How far the prediction of the next token of that text has drifted from the "
            "base's: KL divergence, and share of tokens with the same first choice.",
            module="ledger.suites.general",
            main="kl_divergence",
        ),
    )
}


def find(name: str) -> Suite:
    """The suite of this name; SettingError with the names that there are."""
    if name not in SUITES:
        raise SettingError(f"there is no suite {name!r}, only {', '.join(SUITES)}")
    return SUITES[name]
