"""An edit: one fact that a model should answer differently, with the probes that test it."""

from dataclasses import dataclass, field
from typing import Any

from patches.canonical import quoted


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A prompt and the answer that is expected of it."""

    prompt: str
    answer: str


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One fact to change.

    prompt: the text before the answer.
    target: the new answer, without leading or trailing white space.
    subject: what the fact is about, if known.
    old_target: the answer before the edit, if known.
    relation: what of the subject the fact tells, if known, e.g. ``P103`` for its mother tongue.
    rephrasings: other prompts that should now be answered with `target`.
    locality: prompts about other things, with the answers they must keep.
    further: more probes by kind, e.g. ``personas``, ``multi_hop``, ``out_of_distribution``.
    """

    prompt: str
    target: str
    subject: str | None = None
    old_target: str | None = None
    relation: str | None = None
    rephrasings: tuple[str, ...] = ()
    locality: tuple[Probe, ...] = ()
    further: dict[str, tuple[Probe, ...]] = field(default_factory=dict)

    def probes(self) -> dict[str, Any]:
        """The probes as plain JSON values; kinds without a probe are left out."""
        kinds: dict[str, Any] = {}
        if self.rephrasings:
            kinds["rephrasings"] = list(self.rephrasings)
        if self.locality:
            kinds["locality"] = [[probe.prompt, probe.answer] for probe in self.locality]
        for kind, probes in self.further.items():
            if probes:
                kinds[kind] = [[probe.prompt, probe.answer] for probe in probes]
        return kinds

    def probes_json(self) -> str:
        """Canonical JSON of `probes()`, in a third of the time: every edit is hashed with it."""
        kinds: dict[str, str] = {}
        if self.locality:
            kinds["locality"] = f'"locality":[{_pairs(self.locality)}]'
        if self.rephrasings:
            kinds["rephrasings"] = f'"rephrasings":[{",".join(map(quoted, self.rephrasings))}]'
        for kind, probes in self.further.items():
            if probes:
                kinds[kind] = f"{quoted(kind)}:[{_pairs(probes)}]"
        # The first two are in order.
        parts = [kinds[kind] for kind in sorted(kinds)] if self.further else kinds.values()
        return f"{{{','.join(parts)}}}"

    @classmethod
    def restore(
        cls,
        *,
        prompt: str,
        target: str,
        subject: str | None,
        old_target: str | None,
        probes: dict[str, Any],
        relation: str | None = None,
    ) -> "Edit":
        """The inverse of storing the texts and `probes()`."""
        pairs = {
            kind: tuple(Probe(prompt=p, answer=a) for p, a in rows)
            for kind, rows in probes.items()
            if kind != "rephrasings"
        }
        return cls(
            prompt=prompt,
            target=target,
            subject=subject,
            old_target=old_target,
            relation=relation,
            rephrasings=tuple(probes.get("rephrasings", ())),
            locality=pairs.pop("locality", ()),
            further=pairs,
        )


def _pairs(probes: tuple[Probe, ...]) -> str:
    return ",".join([f"[{quoted(probe.prompt)},{quoted(probe.answer)}]" for probe in probes])
