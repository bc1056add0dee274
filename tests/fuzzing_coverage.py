"""One target of `tests.fuzzing` with atheris, which never returns: a process of its own.

python -m tests.fuzzing_coverage "JSON rows" --seconds 60 --seed 1
"""

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["patches", "ledger"], enable_loader_override=False):
    from tests.fuzzing import SECONDS, TARGETS, once

_MEGABYTES = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    target = TARGETS[chosen.target]
    with tempfile.TemporaryDirectory(prefix="ledger-fuzz-") as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, sample in enumerate(target.samples()):
            (corpus / str(number)).write_bytes(sample)
        options = {
            "max_total_time": chosen.seconds,
            "seed": chosen.seed,
            "timeout": round(SECONDS),
            "rss_limit_mb": _MEGABYTES,
            "max_len": 1 << 16,
            "artifact_prefix": f"{folder}/",
            "print_final_stats": 1,
        }
        words = [f"-{name}={value}" for name, value in options.items()]
        atheris.Setup([sys.argv[0], *words, str(corpus)], lambda data: once(target, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
