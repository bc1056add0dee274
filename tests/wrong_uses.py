"""Wrong uses of every command, and right ones to be tried in wrong surroundings."""

MISSING, NO_TURN = "no such folder", "there is no turn 99: the turns are 1 to 3"
ANOTHER = "--help"

# Command → rows of (arguments, status, part of the sentence); in a sound ledger.
ROWS: dict[str, list[tuple[str, int, str]]] = {
    "init": [
        ("", 2, "Missing option '--model'"),
        ("--model nowhere --ledger new", 1, MISSING),
        ("--model full --ledger new", 1, "no config.json in it"),
        ("--model hollow --ledger new", 1, "no weights in it"),
        ("--model model --ledger full/note.txt", 2, "is a file"),
        ("--model model --ledger new --database nonsense", 1, "write sqlite:///FILE"),
        ("--model model", 1, "choose another with --ledger"),
    ],
    "add-edits": [
        ("", 2, "Missing argument 'SOURCE'"),
        ("nowhere.json", 1, "nowhere.json cannot be read"),
        ("full", 1, "is a folder; name one file of it"),
        ("facts.json --branch nope", 1, "there is no branch nope; the branches are"),
        ("facts.json --locality nowhere.txt --method wise", 1, "nowhere.txt: cannot be read"),
        ("facts.json --gate nonsense", 2, "--gate"),
        ("facts.json --limit 0", 2, "--limit"),
        ("facts.json --offset -1", 2, "offset"),
        ("facts.json --on-conflict shrug", 2, "is not one of"),
    ],
    "tune": [
        ("", 2, "Missing option '--data'"),
        ("--data nowhere.json", 1, "nowhere.json cannot be read"),
        ("--data facts.json --budget soon", 2, "write it like 20m"),
        ("--data facts.json --turns 0", 2, "--turns"),
        ("--data facts.json", 1, "Give more rows"),
    ],
    "settings": [("extra", 2, ANOTHER), ("--reset", 2, "requires an argument")],
    "log": [
        ("extra", 2, ANOTHER),
        ("--branch nope", 1, "the branches are"),
        ("--since yesterdayy", 2, "write e.g."),
        ("--min-score high", 2, "is not a valid float"),
        ("--kind nope", 2, "--kind"),
    ],
    "show": [("", 2, "Missing argument 'TURN'"), ("1 2", 2, ANOTHER)],
    "status": [("extra", 2, ANOTHER), ("--branch nope", 1, "the branches are")],
    "search": [
        ("", 2, "Missing argument 'TEXT'"),
        ("a --limit 0", 2, "--limit"),
        ("a --branch nope", 1, "the branches are"),
    ],
    "blame": [("", 2, "give a prompt or subject"), ("x --device", 2, "requires an argument")],
    "diff": [("", 2, "Missing argument 'A'"), ("1 2 --device warp", 2, "--device warp")],
    "bisect": [
        ("", 2, "give --prompt and --expect, or --script"),
        ("--prompt x", 2, "give --prompt and --expect"),
        ("--prompt x --expect y --workers x", 2, "--workers x"),
    ],
    "serve": [
        ("extra", 2, ANOTHER),
        ("--port 70000", 2, "--port"),
        ("--host nowhere.invalid", 2, "--host nowhere.invalid: no such address"),
        ("--token short", 2, "at least 16 letters"),
        ("--branch nope", 1, "the branches are"),
    ],
    "apply": [
        ("", 2, "Missing option '--to'"),
        ("--to full", 1, "choose another folder or empty this one"),
        ("--to model", 1, "is never written; choose another folder"),
        ("--to facts.json", 2, "is a file"),
        ("--to out --branch nope", 1, "the branches are"),
    ],
    "rollback to": [("", 2, "Missing argument 'N'"), ("1 --to full", 1, "empty this one")],
    "rollback turn": [
        ("", 2, "Missing argument 'N'"),
        ("1", 1, "to bring it back: ledger rollback turn 3"),
        ("2 --to full", 1, "empty this one"),
        ("2 --to model", 1, "choose another folder"),
    ],
    "squash": [
        ("", 2, "Missing argument 'A..B'"),
        ("1", 2, "is not a range of turns like 1..5"),
        ("2..1", 1, "write the earlier one first"),
        ("1..2", 1, "needs two patches in force"),
        ("1..2 --rank 0", 2, "--rank"),
        ("1..2 --max-error 7", 2, "--max-error"),
    ],
    "branch": [
        ("bad..name", 2, "cannot name a branch or tag"),
        ("side", 1, "there is a branch side already"),
        ("--delete", 2, "give the name of the branch"),
        ("nope --delete", 1, "there is no branch nope"),
        ("main --delete", 1, "cannot be deleted"),
    ],
    "switch": [
        ("", 2, "Missing argument 'NAME'"),
        ("nope", 1, "see: ledger branch"),
        ("side --create", 1, "choose another name"),
    ],
    "tag": [
        ("bad..name", 2, "cannot name a branch or tag"),
        ("--delete", 2, "give the name of the tag"),
        ("nope --delete", 1, "see: ledger tag"),
    ],
    "reflog": [
        ("nope", 1, "there never was a branch or tag nope; see: ledger reflog"),
        ("--last 0", 2, "--last"),
    ],
    "merge": [
        ("", 2, "Missing argument 'BRANCH'"),
        ("nope", 1, "nothing is called nope"),
        ("side --strategy magic", 2, "is not one of"),
        ("side --weights x", 2, "--weights"),
    ],
    "cherry-pick": [
        ("", 2, "Missing argument 'TURN…'"),
        ("2", 1, "in force here already"),
        ("3", 1, "is a rollback, which has no patch"),
    ],
    "replay": [
        ("", 2, "Missing argument 'FROM..TO'"),
        ("1..2 --as new", 2, "give --onto TURN too"),
        ("1..2 --from-ledger nowhere", 1, "is not a ledger; create one with: ledger init"),
    ],
    "merge-shards": [
        ("", 2, "Missing argument 'A..B'"),
        ("1..2", 1, "needs two side memories in force"),
        ("1..2 --density 7", 2, "density must be above 0"),
    ],
    "route": [("", 2, "Missing argument 'PROMPT…'"), ("x", 1, "Make one with: ledger add-edits")],
    "push": [
        ("", 2, "Missing argument 'OWNER/NAME[@BRANCH]'"),
        ("nope", 1, "write OWNER/NAME"),
        ("owner/name --as nonsense", 2, "is not one of"),
        ("owner/name --branch nope", 1, "the branches are"),
    ],
    "pull": [
        ("", 2, "Missing argument"),
        ("./full", 1, "holds no manifest.json"),
        ("nowhere/", 1, "write OWNER/NAME"),
    ],
    "clone": [
        ("", 2, "Missing argument"),
        ("./full", 1, "choose another folder with --ledger"),
        ("./full --ledger new", 1, "holds no manifest.json"),
    ],
    "import": [
        ("", 2, "give an adapter, or a changed checkpoint"),
        ("nowhere", 1, MISSING),
        ("full", 1, "give the folder of a PEFT adapter"),
        ("--edited full", 1, "no config.json in it"),
        ("--edited hollow", 1, "no weights in it"),
        ("--edited gpt2", 1, "save the edited one as the base is saved"),
        ("--edited model", 1, "no difference"),
    ],
    "export": [
        ("", 2, "Missing option '--format'"),
        ("--format peft", 2, "Missing option '--out'"),
        ("--format peft --out full", 1, "choose a new or empty folder"),
        ("--format safetensors --out model", 1, "choose another"),
    ],
    "evaluate": [
        ("--suite nope", 2, "there is no suite 'nope', only"),
        ("--workers x", 2, "--workers x"),
        ("--text nowhere.txt --suite perplexity", 1, "nowhere.txt: cannot be read"),
        ("--branch nope", 1, "the branches are"),
    ],
    "verify": [
        ("extra", 2, ANOTHER),
        ("--model nowhere", 2, "does not exist"),
        ("--since nonsense", 2, "ledger attest prints the one"),
    ],
    "attest": [("extra", 2, ANOTHER), ("--sign nowhere.pem", 2, "does not exist")],
    "report": [
        ("", 2, "give --out FILE, or --json"),
        ("extra", 2, ANOTHER),
        ("--out nowhere/report.html", 2, "there is no folder nowhere"),
        ("--out full", 2, "is a directory"),
        ("--json --last 0", 2, "--last"),
        ("--json --branch nope", 1, "the branches are"),
    ],
    "plot": [
        ("", 2, "Missing argument"),
        ("nope --json", 2, "is not one of"),
        ("scores", 2, "give --out FILE, or --json"),
        ("scores --out chart.gif", 2, "ends in one of .svg, .png, .pdf"),
        ("scores --out nowhere/chart.svg", 2, "there is no folder nowhere"),
        ("scores --out full", 2, "is a directory"),
        ("scores --out chart.png --width 24 --height 36 --dpi 1200", 2, "is too large"),
        ("scores --json --branch nope", 1, "the branches are"),
    ],
    "completion": [("", 2, "Missing argument"), ("tcsh", 2, "is not one of")],
    "gc": [("extra", 2, ANOTHER)],
    "db current": [("extra", 2, ANOTHER)],
    "db upgrade": [("extra", 2, ANOTHER)],
    "db copy": [
        ("", 2, "Missing option '--to'"),
        ("--to nonsense", 1, "write sqlite:///FILE"),
    ],
}

# Commands that take a turn, with its place; the others have none.
TURNS = {
    "show": "show {}",
    "blame": "blame x --at {}",
    "diff": "diff 1 {}",
    "bisect": "bisect --prompt x --expect y --from {}",
    "apply": "apply --to out --at {}",
    "rollback to": "rollback to {}",
    "rollback turn": "rollback turn {}",
    "squash": "squash 1..{}",
    "branch": "branch new --at {}",
    "switch": "switch new --create --at {}",
    "tag": "tag new {}",
    "cherry-pick": "cherry-pick {}",
    "replay": "replay 1..{}",
    "merge-shards": "merge-shards 1..{}",
    "route": "route x --at {}",
    "push": "push owner/name --at {}",
    "export": "export --format peft --out out --at {}",
    "evaluate": "evaluate --at {}",
}
FROM_ONE = ("show", "rollback turn", "cherry-pick")

# A right use of every command, for wrong surroundings. Those that no ledger is needed for are left
# out where that is what is wrong.
RIGHT = {
    **{name: line.format(1) for name, line in TURNS.items()},
    "init": "init --model model",
    "add-edits": "add-edits facts.json",
    "tune": "tune --data facts.json",
    "settings": "settings",
    "log": "log",
    "status": "status",
    "search": "search a",
    "blame": "blame --all",
    "diff": "diff 1 2",
    "rollback turn": "rollback turn 2",
    "serve": "serve --port 0",
    "squash": "squash 1..2",
    "reflog": "reflog",
    "merge": "merge side",
    "pull": "pull ./full",
    "clone": "clone ./full",
    "import": "import --edited changed",
    "verify": "verify",
    "attest": "attest",
    "report": "report --json --no-verify",
    "plot": "plot timeline --json",
    "gc": "gc",
    "db current": "db current",
    "db upgrade": "db upgrade",
    "db copy": "db copy --to sqlite:///copy.db",
}
MAKE_ONE = ("init", "clone")
NEED_NONE = ("completion",)
# What goes on until it is told to end.
STAY = ("serve",)

# What needs the model: a right use of each. The others go on without it.
NEED_MODEL = {
    "add-edits": "add-edits facts.json",
    "diff": "diff 1 2",
    "apply": "apply --to out",
    "rollback turn": "rollback turn 3",
    "bisect": "bisect --prompt x --expect y",
    "evaluate": "evaluate",
    "import": "import --edited changed",
    "export": "export --format safetensors --out out",
    "cherry-pick": "cherry-pick 1",
}
