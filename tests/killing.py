"""Kills `python -m helpers study` with SIGKILL, again and again, at seeded random moments of each stage, and lets it go on.

`python tests/killing.py --kills 50 --seed 0` from the repository root; tests/test_kills.py does fewer. The study is a real one on the `tiny`
profile, with sentence pairs of the tests in place of the corpus. Each attempt is a fork of a server that has the imports behind it and
has computed nothing: a fork of a process whose OpenMP threads have run, such as pytest's after other tests, waits for them for ever.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from helpers import corpora, runtime
from helpers.records import Record
from tests.conftest import PAIRS

STAGES = ("curate", "augment", "train", "predict", "report")
# At a moment of the clock; before an operation on a file; just after one was begun.
HOWS = ("moment", "before", "after")
STUDY = """about = "A tiny one that is killed."
profile = "tiny"
[seeds]
plain = [0]
reasoned-33 = [0]
[recipe]
train_pairs = 16
dev_pairs = 2
test_pairs = 4
replay_pairs = 8
questions = 12
test_questions = 8
control_train = 4
control_dev = 2
control_test = 4
accumulation = 1
"""
# What takes the time or memory of this run: everything else has to be the same.
TIMED = ("tokens_per_second", "peak_memory_gb", "seconds")
_OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod")


@dataclass
class Attempt:
    """How one attempt ended: `stage` is the last begun, `events` the operations on files of each, `seconds` what each took.

    `output` is what it printed, `words` the end of that where it ended by itself and not well.
    """

    killed: bool
    stage: str = ""
    output: str = ""
    words: str = ""
    events: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)


def nothing() -> None:
    """What is done before a study: nothing."""


def corpus(say: Callable[[str], None] = print) -> list[Record]:
    """Sentence pairs of the tests, a few times over with other beginnings."""
    return [Record(f"pair-{i}-{n}", "translate", f"{n}番目の話。{ja}", f"Story {n}. {en}") for n in range(6) for i, (ja, en) in enumerate(PAIRS)]


def _patch(announce: Callable[[str], None]) -> None:
    """Say each stage as it begins; the pairs of the tests stand for the corpus."""
    from helpers import evaluation, pipeline, results

    def said(stage: str, function: Callable) -> Callable:
        def called(*args, **kwargs):
            announce(stage)
            return function(*args, **kwargs)

        return called

    corpora.tatoeba = corpus
    for stage, module, name in (
        ("curate", pipeline, "curate"), ("augment", pipeline, "augment"), ("train", pipeline, "train_arm"), ("predict", evaluation, "predict"),
        ("report", results, "results"),
    ):  # fmt: skip
        setattr(module, name, said(stage, getattr(module, name)))


def _child(home: Path, tell: int, stage: str, how: str, at: int) -> None:
    """The study, in a process that does not return; kills itself, or tells the parent, at the `at`-th operation on a file in `stage`."""
    from helpers.__main__ import main

    now, count, inside = "", 0, str(home)

    def announce(new: str) -> None:
        nonlocal now
        # A stage that had fewer operations left than were drawn ends with the kill.
        if how in ("before", "after") and now == stage != new:
            os.kill(os.getpid(), signal.SIGKILL)
        now = new
        os.write(tell, f"stage {new}\n".encode())

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in _OPERATIONS and now and isinstance(arguments[0], str | bytes | os.PathLike) and os.fsdecode(arguments[0]).startswith(inside):
            if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
                return
            if how:
                count += now == stage
                if count == at and now == stage:
                    if how == "before":
                        os.kill(os.getpid(), signal.SIGKILL)
                    os.write(tell, b"now\n")
            else:
                os.write(tell, f"event {now}\n".encode())

    sys.addaudithook(watch)
    _patch(announce)
    code = main(["study", str(home / "mine.toml"), "--run", "killed", "--keep", str(home / "kept")])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _forked(environment: dict[str, str], printed: str, beforehand: Callable[[], None], tell: Connection, *rest) -> None:
    """Runs in the fork: the environment of the asking process, and a file for all that is printed."""
    try:
        os.environ.clear()
        os.environ.update(environment)
        with open(printed, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", errors="replace", closefd=False) for number in (1, 2))
        runtime.quiet()
        beforehand()
        _child(Path(rest[0]), tell.fileno(), *rest[1:])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(99)


def _server() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.killing_imports"])
    return context


def attempt(
    home: Path, stage: str = "", how: str = "", at: int = 0, delay: float = 0.0, beforehand: Callable[[], None] = nothing
) -> Attempt:
    """Run the study in `home`, or go on with it; with a `stage`, until it is killed there. `beforehand`, of a module, is called in the fork."""
    context = _server()
    hear, tell = context.Pipe(duplex=False)
    # Elsewhere than `home`, for its disk may be full.
    descriptor, printed = tempfile.mkstemp()
    os.close(descriptor)
    child = context.Process(target=_forked, args=(dict(os.environ), printed, beforehand, tell, str(home), stage, how, at))
    child.start()
    tell.close()
    found, began, text, deadline = Attempt(False), time.monotonic(), "", None
    while True:
        left = max(0.0, deadline - time.monotonic()) if deadline else 600.0
        if not select.select([hear], [], [], left)[0]:
            child.kill()
            if not deadline:
                found.words = "still running after ten minutes"
            break
        block = os.read(hear.fileno(), 1 << 16).decode()
        if not block:
            break
        *lines, text = (text + block).split("\n")
        for line in lines:
            word, _, rest = line.partition(" ")
            if word == "stage":
                now = time.monotonic()
                if found.stage:
                    found.seconds[found.stage] = found.seconds.get(found.stage, 0.0) + now - began
                    began = now
                # A stage that ended sooner than drawn ends with the kill.
                if found.stage == stage != rest and how == "moment":
                    deadline = now
                found.stage = rest
                if rest == stage and how == "moment" and deadline is None:
                    deadline = now + delay
            elif word == "event":
                found.events[rest] += 1
            elif word == "now":
                deadline = time.monotonic() + delay
    hear.close()
    child.join()
    found.seconds[found.stage] = found.seconds.get(found.stage, 0.0) + time.monotonic() - began
    found.killed = child.exitcode == -signal.SIGKILL
    found.output = Path(printed).read_text(encoding="utf-8", errors="replace")
    os.remove(printed)
    if child.exitcode and not found.killed:
        found.words = found.output[-3000:] or f"ended with status {child.exitcode} and without a word"
    return found


def prepare(home: Path) -> Path:
    """A folder with the study file in it, and the environment for it: its own cache, so that making the model is killed too."""
    home.mkdir(parents=True)
    (home / "mine.toml").write_text(STUDY, encoding="utf-8")
    os.environ |= {"BONSAI_NO_VENV": "1", "BONSAI_RUNS": str(home / "runs"), "BONSAI_CACHE": str(home / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    return home


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k not in TIMED}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def _content(path: Path, home: Path) -> object:
    """What has to be the same of a file: its bytes without the name of `home`, in JSON without what `TIMED` names."""
    if path.suffix == ".jsonl":
        return [_plain(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".json":
        return _plain(json.loads(path.read_text(encoding="utf-8").replace(str(home), "")))
    if path.name == "training_log.csv":
        head, *rows = (line.split(",") for line in path.read_text(encoding="utf-8").splitlines())
        return [[cell for name, cell in zip(head, row, strict=True) if name not in TIMED] for row in (head, *rows)]
    return path.read_bytes().replace(str(home).encode(), b"")


def _looked_at(path: Path) -> bool:
    # Locks are empty; the others hold a date (SVG), or what only Python can read (training_args.bin).
    return not path.name.endswith(".lock") and path.suffix not in (".svg", ".bin")


def outcome(home: Path) -> dict[str, object]:
    """Everything that the study left, relative path → content; a file too many, a temporary one say, is a difference as well."""
    return {p.relative_to(home).as_posix(): _content(p, home) for p in sorted(home.rglob("*")) if p.is_file() and _looked_at(p)}


def differences(whole: dict[str, object], other: dict[str, object]) -> list[str]:
    """Names of files that are missing, too many or different."""
    return sorted(
        [f"lost: {n}" for n in whole.keys() - other.keys()]
        + [f"too many: {n}" for n in other.keys() - whole.keys()]
        + [f"different: {n}" for n in whole.keys() & other.keys() if whole[n] != other[n]]
    )


def undisturbed(home: Path) -> tuple[Attempt, dict[str, object]]:
    """The study in one go: what its stages take, and what it comes to."""
    found = attempt(prepare(home))
    if found.killed or found.words:
        raise RuntimeError(found.words or "the undisturbed study was killed by somebody else")
    return found, outcome(home)


def reference(folder: Path) -> tuple[Attempt, dict[str, object]]:
    """The undisturbed study. Raises `RuntimeError` where two of them differ."""
    _, expected = undisturbed(folder / "first")
    found, again = undisturbed(folder / "second")
    if wrong := differences(expected, again):
        raise RuntimeError(f"two undisturbed studies differ: {'; '.join(wrong)}")
    return found, expected


def rounds(folder: Path, kills: int, seed: int, each: int = 2) -> Iterator[tuple[str, str, list[str]]]:
    """Kill studies in `folder`, `each` times in every stage and then to the end, until there were `kills`.

    Yields (stage, how, []) for a kill, and ("end", "", what differs from the undisturbed study) for a study that came to its end.
    """
    generator = random.Random(seed)
    whole, expected = reference(folder)
    done = number = 0
    while done < kills:
        number += 1
        home = prepare(folder / f"round{number}")
        for stage in [s for s in STAGES for _ in range(each)][: kills - done]:
            how = generator.choice(HOWS)
            at = generator.randint(1, max(1, whole.events[stage]))
            delay = generator.random() * (whole.seconds[stage] if how == "moment" else 2e-3)
            found = attempt(home, stage, how, at, delay)
            if found.words:
                yield "end", "", [f"an attempt to be killed in {stage} ({how}, {at}, {delay:.3f} s) ended by itself: {found.words}"]
            if not found.killed:  # done before the moment came
                break
            done += 1
            yield found.stage, how, []
        last = attempt(home)
        yield "end", "", [last.words] if last.words else differences(expected, outcome(home))


def main() -> int:
    """The harness by hand: one line a kill, a table at the end; 1 where a study came out different."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder that goes away)")
    options = parser.parse_args()
    runtime.quiet()
    table: Counter[tuple[str, str]] = Counter()
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        for stage, how, wrong in rounds(options.folder or Path(temporary), options.kills, options.seed):
            if stage == "end":
                print("  ended: " + ("; ".join(wrong) if wrong else "the same as undisturbed"), flush=True)
                bad += bool(wrong)
            else:
                table[stage, how] += 1
                print(f"killed in {stage} ({how})", flush=True)
    for stage in STAGES:
        print(f"{stage:10}" + "".join(f"{how} {table[stage, how]:>3}   " for how in HOWS))
    print(f"{table.total()} kills, {bad} studies that came out different")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
