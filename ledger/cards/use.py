"""How to load and to verify what is published, and what it cannot do: a part of the model card."""

from collections.abc import Iterator, Mapping

from ledger.cards.markdown import block, bullets, capped_table, escaped, section
from ledger.cards.subject import Published, Subject
from ledger.history import CHANGING, state_hash
from ledger.sharing.signing import SIGNATURE
from ledger.wording import turn_numbers

_MEMORIES = (
    "transformers alone loads the main weights, without the side memories.",
    "Side memories are chosen by how strongly a prompt activates them, token by token on average. "
    "Prompts that differ from an edit in one word, or a long text around it, can take the wrong "
    "way; `ledger route` shows it.",
    "Side memories need the model's modules: a model that is compiled already, or whose matrix is "
    "offloaded, is refused.",
)
_PEFT = (
    "PEFT rounds differently: it adds the factors to the output, or merges them, in the dtype of "
    "the model, where `ledger apply` sums in float64 and rounds once. Predictions may differ in "
    "close cases, and merged weights have other bytes."
)


def loading(subject: Subject) -> str:
    """A few lines that load what is published."""
    what = subject.what
    here = f'"{what.repo}"{_revision(what.tag)}'
    if what.form == "patch":
        lines = [_clone(subject, _at(what.repo, what.tag)), "ledger apply --to DIR"]
        loaded = "`ledger.load_patched`" if subject.memories else "transformers"
        return section(
            "Load it",
            block("", *lines),
            f"`DIR` is then a checkpoint that {loaded} loads.{_placeholders(subject)}",
        )
    if what.form == "adapter":
        base = f'"{what.base_model or "BASE"}"{_revision(what.base_revision)}'
        lines = [
            "import peft, transformers",
            f"base = transformers.AutoModelForCausalLM.from_pretrained({base})",
            f"model = peft.PeftModel.from_pretrained(base, {here})",
        ]
        note = f"The tokenizer is that of the base.{_placeholders(subject)}"
        return section("Load it", block("python", *lines), note)
    if subject.memories:
        lines = ["from ledger import load_patched", f"model, tokenizer = load_patched({here})"]
        return section("Load it", block("python", *lines))
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        f"tokenizer = AutoTokenizer.from_pretrained({here})",
        f"model = AutoModelForCausalLM.from_pretrained({here})",
    ]
    return section("Load it", block("python", *lines))


def _clone(subject: Subject, repository: str) -> str:
    what = subject.what
    base = _at(what.base_model, what.base_revision) if what.base_model else "BASE"
    return f"ledger clone {repository} --model {base}"


def _at(name: str, revision: str | None) -> str:
    return f"{name}@{revision}" if revision else name


def _revision(name: str | None) -> str:
    return f', revision="{name}"' if name else ""


def _placeholders(subject: Subject) -> str:
    if subject.what.base_model:
        return ""
    return " `BASE` is the base model, a folder or the name of a repository."


def verifying(subject: Subject) -> str:
    """The digests that must come out, and the commands that compute them."""
    what = subject.what
    expected = bullets(
        [
            f"fingerprint of the base: `{subject.base.fingerprint}`",
            f"hash of turn {len(subject.turns)}: `{state_hash(subject.turns)}`",
        ]
    )
    told = (
        "The fingerprint is a digest of every tensor of the base (`ledger init --model BASE` "
        "prints it); the hash covers everything that is recorded of a turn, and the hash of the "
        "turn before."
    )
    how = {"model": _verifying_model, "patch": _verifying_patch, "adapter": _verifying_adapter}
    return section("Verify it", expected, told, *how[what.form](subject), *_signed(what))


def _signed(what: Published) -> list[str]:
    if not what.signed:
        return []
    another = "The public key should reach you by another way than this page."
    if what.form == "patch":
        return [
            "The history is signed: `ledger clone --verify KEY` and `ledger pull --verify KEY` "
            f"refuse it if the signature was not made with the other half of that key. {another}"
        ]
    return [
        f"`{SIGNATURE}` is a signature over every file but this page, which the `model-signing` "
        f"library checks. {another}",
        block(
            "",
            _download(what),
            f"model_signing verify key DIR --signature DIR/{SIGNATURE} --public_key KEY "
            "--ignore-paths DIR/.cache",
        ),
    ]


def _download(what: Published) -> str:
    tag = f" --revision {what.tag}" if what.tag else ""
    return f"hf download {what.repo}{tag} --local-dir DIR"


def _verifying_model(subject: Subject) -> list[str]:
    what = subject.what
    patched = len(subject.turns[-1].row.tensors) if subject.turns else 0
    beside = ", and of the file of side memories" if subject.memories else ""
    digests = (
        "`ledger.json`, beside the weights, has the SHA-256 of every tensor that turns in force "
        f"have changed ({patched:,}){beside}. The ledger, which the repository of its patches "
        "gives where there is one, compares all tensors:"
    )
    lines = [
        _clone(subject, "OWNER/PATCHES"),
        _download(what),
        "ledger verify --model DIR",
    ]
    return [digests, block("", *lines)]


def _verifying_patch(_: Subject) -> list[str]:
    return [
        "`ledger clone` and `ledger pull` refuse another base, check every file against its "
        "SHA-256, and compute the hash of every turn anew, before anything is recorded. `ledger "
        "apply` compares each patched tensor with the SHA-256 that was recorded with its turn. "
        "Afterwards, `ledger verify --model DIR` does all of that again."
    ]


def _verifying_adapter(subject: Subject) -> list[str]:
    return [
        "An adapter holds factors, and no weights whose bytes could be compared. For those, clone "
        "the ledger from the repository of its patches, where there is one, and write the model "
        "with `ledger apply`:",
        block("", _clone(subject, "OWNER/PATCHES"), "ledger apply --to DIR"),
    ]


def limits(subject: Subject) -> str:
    """What to know before relying on it."""
    what = subject.what
    found = [
        "Teacher-forced scores flatter. An edited small model answers many prompts with the new "
        "fact and still derails in long free text; look at stability before you use it.",
        *_limits_of_history(subject),
        *(_MEMORIES if subject.memories else ()),
    ]
    if what.form == "patch":
        found.append(
            "The patches are for the base with this fingerprint, as it is: not for a quantised one."
        )
    if what.form != "adapter":
        return section("Known limits", bullets(found))
    rows = [(escaped(name), f"{what.errors[name]:.1e}") for name in sorted(what.errors)]
    errors = capped_table(("tensor", "relative error"), rows, right="relative error")
    return section(
        "Known limits", bullets([*found, _PEFT, _factors(what.errors)]), errors if rows else ""
    )


def _limits_of_history(subject: Subject) -> Iterator[str]:
    what = [turn for turn in subject.turns if turn.row.kind in CHANGING]
    if any(turn.number not in subject.active for turn in what):
        yield (
            "Taking a turn back removes its weight change exactly. It does not undo its influence "
            "on later turns: those were computed on a model that had it."
        )
    if imported := [turn.number for turn in subject.changing if turn.row.kind == "import"]:
        yield (
            f"What {turn_numbers(imported)} brought in was made elsewhere: no facts are recorded "
            "for it, and no score is about it."
        )
    patched = subject.turns[-1].row.tensors if subject.turns else {}
    dtypes = {subject.base.tensors[name][0] for name in patched if name in subject.base.tensors}
    if subject.what.form != "adapter" and dtypes & {"F32", "F64"}:
        yield (
            "On a float32 base another machine may round about one element in 10^8 differently; "
            "`ledger verify --model` tells such a difference from damage."
        )


def _factors(errors: Mapping[str, float]) -> str:
    if not errors:
        return "The factors hold the whole of each change."
    return (
        "The factors leave out a part of the changes: in the Frobenius norm, relative to the "
        f"change of the tensor, {max(errors.values()):.1e} at the most. By tensor:"
    )
