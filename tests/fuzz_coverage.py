"""Coverage-guided fuzzing of the parsers with atheris, by hand: python tests/fuzz_coverage.py TARGET [libFuzzer options].

`pip install atheris` first; it is no requirement. TARGET is one of `TARGETS`; `-max_total_time=60` stops after a minute. A crash leaves the
input in ./crash-… and its traceback; what it finds becomes a case in test_bad_input, test_tables or test_records.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

with atheris.instrument_imports(include=["helpers", "json", "csv", "tomllib", "openpyxl"]):
    from helpers import edits, formats, own_evaluation, records, search, studies, tables, trainer_state
    from helpers.files import UserError, read_lines


def quiet(line: str) -> None:
    """Takes what a reader says."""


def table(path: Path) -> None:
    """Any format, told by the first byte, into records."""
    tables.read_table(formats.Raw(str(path), "own", path.suffix, path.read_bytes()), say=quiet)


# What reads, the name of the file, a valid one to begin with.
TARGETS = {
    "records": (records.read, "a.jsonl", b'{"id": "q", "task": "qa", "ja": "x", "en": "y", "answer": "z", "aliases": ["a"], "hops": 1}\n'),
    "csv": (table, "a.csv", "id,日本語,英語,答え,別解\n1,水は？,What?,98,a|b\n2,\"x\ny\",z,7,\n".encode()),
    "json": (table, "a.json", b'[{"translation": {"ja": "a", "en": "b"}, "answer": 1.5}, {"ja": "c", "en": "d"}]'),
    "own": (lambda path: own_evaluation.read(path, quiet), "a.jsonl", b'{"id": "a", "ja": "x", "en": "y", "answers": ["b", "c"]}\n'),
    "state": (lambda path: trainer_state.read_trainer_state(path, say=quiet), "trainer_state.json",
              b'{"log_history": [{"step": 1, "loss": 2.0, "epoch": 0.5}, {"step": 2, "eval_loss": null}]}'),
    "study": (studies.load, "a.toml", b'about = "x"\nprofile = "tiny"\n[seeds]\nplain = [0, 1]\nreasoned-33 = [0]\n[recipe]\nrank = 8\nlearning_rate = 1e-4\n'),
    "search": (search.load, "a.toml", b'about = "x"\nstudy = "quick"\narm = "plain"\n[variants.a]\nrank = 8\nsamples = 2\n'),
    "edits": (lambda path: edits.EditStore(path, quiet)._read(), "a.jsonl",
              b'{"id": "q", "was": "a", "becomes": "b", "verdict": "edit", "changes": {"en": "y"}, "time": "t"}\n{"id": "q", "verdict": "undo", "time": "t"}\n'),
    "lines": (lambda path: read_lines(path, id=str, n=int), "a.jsonl", b'{"id": "a", "n": 1}\n'),
}  # fmt: skip


def main() -> None:
    """Fuzz one target until libFuzzer is told to stop."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(TARGETS)} [-max_total_time=SECONDS …]")
    read, name, valid = TARGETS[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:
        path, seeds = Path(folder) / name, Path(folder) / "seeds"
        seeds.mkdir()
        (seeds / "valid").write_bytes(valid)

        def one(data: bytes) -> None:
            path.write_bytes(data)
            try:
                read(path)
            except UserError as error:
                assert "\n" not in str(error) and name in str(error), str(error)

        atheris.Setup([sys.argv[0], *sys.argv[2:], "-timeout=10", str(seeds)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
