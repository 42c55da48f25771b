"""Mutated files of every kind through their readers: what loads is whole, what does not is one line that names the file; nothing hangs.

Tables and records have their own (test_tables, 12,000; test_records, 2,000). `python tests/fuzz_coverage.py` looks for new paths with atheris.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import (
    agreement,
    checkpoints,
    edits,
    evaluation,
    execution,
    experiment,
    models,
    own_evaluation,
    pipeline,
    runtime,
    search,
    studies,
    teachers,
    trainer_state,
)
from helpers.asking_cache import Store
from helpers.files import UserError
from helpers.records import Record
from tests import killing
from tests.mutating import bytes_mutated

LIMIT = 10  # seconds of the processor for one file; a minute and a half where it waits
ODD = [None, True, False, 0, -1, 1.5, 10**30, 1e308, "", " ", "qa", "x\ud800", "🌳", "\x00", "../../x", "x" * 5000, [], ["a"], [[]], {}, {"a": {"b": 1}}]
JUNK = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"=", b"\x00", b"\n", b"\r", b"'", b"#", b"\xe3", b"\xff\xfe", b"\xef\xbb\xbf", b"NaN", b"Infinity", b"1e999", b"-"]
QUIET: Callable[[str], None] = lambda line: None  # noqa: E731


@dataclass(frozen=True)
class Reader:
    """A valid file and who reads it: `read(run, path)` returns how many lines or entries it took, or None where that says nothing."""

    name: str
    valid: bytes
    read: Callable[[runtime.Run, Path], int | None]


def lines(*values: object) -> bytes:
    return "".join(json.dumps(v, ensure_ascii=False) + "\n" for v in values).encode()


def document(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


BEGUN = {"train_pairs": 16, "dev_pairs": 2, "test_pairs": 4, "replay_pairs": 8, "questions": 12, "test_questions": 4}
SEARCH = """about = "Mine."
study = "quick"
arm = "reasoned-33"
[variants.as-it-is]
[variants.rank-8]
rank = 8
learning_rate = 1e-4
[variants.voted]
samples = 8
temperature = 0.7
"""
DECISION = {"id": "q1", "was": "a" * 16, "becomes": "b" * 16, "verdict": "edit", "changes": {"en": "Why?"}, "time": "2026-01-01T00:00:00+00:00"}
ROW = {"step": 1, "phase": "pairs", "loss": 2.5, "learning_rate": 1e-4, "grad_norm": 0.5, "tokens_seen": 10, "target_tokens_seen": 4, "tokens_per_second": 9.5}
STATE = {"global_step": 2, "log_history": [{"step": 1, "loss": 2.0, "epoch": 0.5, "grad_norm": 1.0, "learning_rate": 1e-4}, {"step": 2, "eval_loss": 1.5}]}
ANSWER = {"key": "k", "id": "q1", "teacher": "toy", "model": "m", "prompt_version": "1", "sample": 0, "text": "So 98.", "tokens_in": 1, "tokens_out": 2,
          "seconds": 0.5, "error": ""}  # fmt: skip
PREDICTION = {"id": "q1", "stage": "S2", "asked": False, "prompt_english": "Why?", "text": "x", "english": "", "reasoning": "", "answer": "x", "well_formed": True,
              "truncated": False, "tokens": 3}  # fmt: skip
OWN = {"id": "a", "ja": "なぜですか？", "en": "Why?", "answers": ["Because", "So"]}
TOY = teachers.Teacher("toy", "m", "1", 1, lambda records, sample, stop: [])


def asked(run: runtime.Run, path: Path) -> None:
    with Store(path, TOY, (0.0, 0.0), QUIET):
        pass


def begun(run: runtime.Run, path: Path) -> None:
    """The marker of a run, as the commands and the plan read it."""
    runtime.open_run(run.folder.name, "auto", **BEGUN)


def begun_for_evaluation(run: runtime.Run, path: Path) -> None:
    own_evaluation.open_run(run.folder.name)


def planned(run: runtime.Run, path: Path) -> None:
    experiment.memory_gb(run)
    experiment._rates(run)


def curated(run: runtime.Run, path: Path) -> None:
    if pipeline.is_curated(run):
        pipeline.load(run)


def restored(run: runtime.Run, path: Path) -> None:
    data = pipeline.load(run)
    experiment.restore(run, data, evaluation.systems(run)[0], run.path("kept"))


def predicted(run: runtime.Run, path: Path) -> None:
    evaluation.is_predicted(run, pipeline.load(run), evaluation.systems(run)[0])


def summarised(run: runtime.Run, path: Path) -> None:
    execution.summary(run.folder, [execution.Done("01", 1.0, False)], QUIET)


READERS = {
    "mine.toml": Reader("study", killing.STUDY.encode(), lambda run, path: studies.load(path) and None),
    "searched.toml": Reader("search", SEARCH.encode(), lambda run, path: search.load(path) and None),
    "edits.jsonl": Reader("decisions", lines(DECISION, DECISION | {"id": "q2", "verdict": "reject", "changes": {}}),
                          lambda run, path: len(edits.EditStore(path, QUIET).decisions())),
    "trainer_state.json": Reader("log of others", document(STATE), lambda run, path: len(trainer_state.read_trainer_state(path, say=QUIET)) and None),
    "judged.jsonl": Reader("judgements", lines(*({"arm": "plain", "seed": 0, "id": f"q{i}", "step": "chaining"} for i in range(3))),
                           lambda run, path: len(agreement.read(path))),
    "asked.jsonl": Reader("cache of a teacher", lines(ANSWER, ANSWER | {"sample": 1}), asked),
    "predictions/base/questions.jsonl": Reader("predictions", lines(PREDICTION, PREDICTION | {"stage": "S4"}), lambda run, path: len(evaluation.read(path))),
    "predictions/base/done.json": Reader("marker of predictions", document({"made_from": ["a"], "adapter": "", "seconds": 1.5, "tokens": 20}), predicted),
    "own.jsonl": Reader("evaluation file", lines(OWN, OWN | {"id": "b"}), lambda run, path: len(own_evaluation.read(path, QUIET))),
    "run.json": Reader("settings of a run", b"", begun),
    "../other/run.json": Reader("settings, for the plan", document({"profile": "tiny", "model_id": "", "study": "quick", "changes": {}}), planned),
    "../opened/run.json": Reader("settings, to evaluate", document({"profile": "tiny", "model_id": "", "study": "quick", "changes": {"rank": 4}}),
                                 lambda run, path: own_evaluation.open_run("opened") and None),
    "data/manifest.json": Reader("manifest of data", b"", curated),
    "reasoning/manifest.json": Reader("manifest of arms", b"", lambda run, path: len(pipeline.arm_questions(run, pipeline.load(run), "reasoned-50")) and None),
    "reasoning/accepted.json": Reader("rationales", b"", lambda run, path: len(pipeline.arm_questions(run, pipeline.load(run), "reasoned-50")) and None),
    "reasoning/augmentation.json": Reader("marker of rationales", b"", lambda run, path: pipeline.augment(run, pipeline.load(run), QUIET) and pipeline.for_review(run, pipeline.load(run)) and None),
    "arms/plain/seed0/made_from.json": Reader("marker of an arm", document({"made_from": "x"}), lambda run, path: pipeline.is_trained(run, pipeline.load(run), "plain") or None),
    "kept/base/predictions.json": Reader("marker of kept results", document({"made_from": ["x"]}), restored),
    "report/headline.json": Reader("headline", document({"S4": "9.0 % [5.4, 14.8] n=144"}), summarised),
    "arms/plain/seed0/log.jsonl": Reader("training log", lines(ROW, ROW | {"step": 2}), lambda run, path: len(checkpoints.read_log(path))),
}  # fmt: skip


def nodes(value: object, path: tuple = ()) -> Iterator[tuple]:
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from nodes(value[key], (*path, key))


def structure_mutated(value: object, generator: random.Random) -> object:
    """One node of a JSON value replaced, removed, renamed, doubled or wrapped."""
    value = json.loads(json.dumps(value))
    path = generator.choice(list(nodes(value)))
    if not path:
        return generator.choice([*ODD, [value]])
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    last, action = path[-1], generator.choice(["odd", "odd", "odd", "drop", "rename", "wrap", "double"])
    if action == "odd":
        holder[last] = generator.choice(ODD)
    elif action == "wrap":
        holder[last] = generator.choice([[holder[last]], {"a": holder[last]}])
    elif isinstance(holder, list):
        holder.insert(last, holder[last]) if action == "double" else holder.pop(last)
    else:
        kept = holder.pop(last)
        if action != "drop":
            holder[last + generator.choice([" ", "_", "é", "s"])] = kept
    return value


TOML = ["true", "-1", "0", "1.5", "1e400", "nan", "inf", "''", "'../../x'", "[]", "[0]", "[0, 0]", "[1, 'a']", "{}", "{a = 1}", "1979-05-27", "99999999999999999999", '"""\nx"""']


def mutated(name: str, valid: bytes, generator: random.Random) -> bytes:
    if generator.random() < 0.4:
        return bytes_mutated(valid, generator, JUNK, (1, 1, 1, 2, 3, 8))
    if name.endswith(".toml"):
        rows = valid.decode().splitlines()
        for _ in range(generator.randint(1, 2)):
            at = generator.randrange(len(rows))
            key, equals, _ = rows[at].partition("=")
            match generator.randrange(5):
                case 0 | 1 if equals:
                    rows[at] = f"{key}= {generator.choice(TOML)}"
                case 2:
                    rows.insert(at, generator.choice(rows))
                case 3:
                    rows[at] = generator.choice(["[seeds]", "[variants]", "[variants.'../../x']", "[variants.'']", "x = 1", "[recipe.rank]", "seed = 1", "['a\\u0000']"])
                case _:
                    rows[at] = rows[at].replace("a", generator.choice(["é", "", "A", "."]), 1)
        return "\n".join(rows).encode()
    if name.endswith(".jsonl"):
        rows = [json.loads(line) for line in valid.decode().splitlines()]
        at = generator.randrange(len(rows))
        rows[at] = structure_mutated(rows[at], generator)
        if generator.random() < 0.1:
            rows.append(rows[at])
        return "".join(json.dumps(r) + "\n" for r in rows).encode()
    return json.dumps(structure_mutated(json.loads(valid), generator)).encode()


@contextlib.contextmanager
def in_time(what: object) -> Iterator[None]:
    """Fail where the block takes longer than `LIMIT`."""

    def late(*_):
        raise TimeoutError(f"{what}: still busy after {LIMIT} s")

    # By the processor's time first: a busy machine must not look like a hang.
    before = [(s, signal.signal(s, late)) for s in (signal.SIGPROF, signal.SIGALRM)]
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    signal.setitimer(signal.ITIMER_REAL, 9 * LIMIT)
    try:
        yield
    finally:
        for timer in (signal.ITIMER_PROF, signal.ITIMER_REAL):
            signal.setitimer(timer, 0)
        for number, handler in before:
            signal.signal(number, handler)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with data and rationales; what a reader needs beside the mutated file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BONSAI_RUNS", str(tmp_path_factory.mktemp("runs")))
        patch.setattr("helpers.corpora.tatoeba", killing.corpus)
        run = runtime.open_run("t", "tiny", **BEGUN)
        pipeline.ensure(run, say=QUIET)
        for name in evaluation.FILES:
            path = run.path("kept", "base", f"{name}.gz")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(lines(PREDICTION)))
            made = run.path("predictions", "base", name)
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_bytes(lines(PREDICTION))
        for name in ("done.json", "adapter/adapter_model.safetensors"):
            made = run.path("arms", "plain", "seed0", name)
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_bytes(b"{}")
        for other in ("other", "opened"):
            (run.folder.parent / other).mkdir()
        # Measured once: what is read is under test here, not the processor.
        patch.setattr(experiment, "gflops", lambda here: 100.0)
        yield run


# Of another run, read for an estimate alone: a damaged one stops nothing.
PASSED_OVER = ("../other/run.json",)


def attempt(run: runtime.Run, name: str, content: bytes, outcomes: dict[str, int]) -> None:
    reader, path = READERS[name], run.path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else None
    path.write_bytes(content)
    try:
        with in_time((name, content)):
            count = reader.read(run, path)
        if count is not None:
            held = [line for line in content.decode("utf-8-sig", "replace").split("\n") if line.strip()]
            cut = name == "edits.jsonl"  # undone, decided twice or cut off, which it says
            assert count == len(held) or (cut and count < len(held) + 1), (name, content, "a silent drop")
        outcomes["loads"] += 1
    except UserError as error:
        # A study that is not known is named by the file that was looked for.
        named = path.name in str(error) or path.parent.name in str(error) or ": no such study" in str(error)
        assert "\n" not in str(error) and named, (name, content, str(error))
        outcomes["refused"] += 1
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)


def fuzz(run: runtime.Run, name: str, count: int, seed: int) -> dict[str, int]:
    generator, outcomes = random.Random(f"{seed} {name}"), {"loads": 0, "refused": 0}
    valid = READERS[name].valid or run.path(name).read_bytes()
    for _ in range(count):
        content = mutated(name, valid, generator)
        try:
            attempt(run, name, content, outcomes)
        except Exception as error:
            raise AssertionError(f"{name}: {content!r}") from error
    return outcomes


@pytest.mark.parametrize("name", READERS)
def test_sixty_mutated_files_load_or_are_refused_by_name(run, name):
    outcomes = fuzz(run, name, 60, seed=1)
    assert sum(outcomes.values()) == 60, outcomes
    if name in PASSED_OVER:
        assert outcomes["loads"] == 60
    else:
        assert max(outcomes.values()) < 60, outcomes


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_six_hundred_mutated_files_load_or_are_refused_by_name(run, name):
    """20 readers: 12,000 files."""
    outcomes = fuzz(run, name, 600, seed=2)
    assert (outcomes["loads"] == 600) if name in PASSED_OVER else (min(outcomes.values()) >= 5), f"the fuzz must reach both ends: {outcomes}"


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["made_from", "files", "choice", "profile", "model_id", "changes", "study", "step", "log_history", "loss", "id", "verdict"]) | st.text(max_size=4), inner, max_size=4), max_leaves=8)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([n for n in READERS if not n.endswith(".toml")]), value=JSON)
def test_any_json_value_in_the_place_of_any_file(run, name, value):
    attempt(run, name, json.dumps(value).encode() + b"\n", {"loads": 0, "refused": 0})


@settings(derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(list(READERS)), content=st.binary(max_size=60) | st.text(max_size=40).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_any_bytes_in_the_place_of_any_file(run, name, content):
    attempt(run, name, content, {"loads": 0, "refused": 0})


@pytest.mark.parametrize("content", [b'{"step": 1, "tokens_seen": 1, "phase": "\xff"}\n', b'{"step": Infinity, "tokens_seen": 1}\n', b"[" * 100_000 + b"\n"])
def test_a_training_log_of_odd_bytes(run, content):
    attempt(run, "arms/plain/seed0/log.jsonl", content, {"loads": 0, "refused": 0})


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"base_model_name_or_path": 1}', b"\xff"])
def test_a_damaged_adapter_configuration_is_named(run, tmp_path, content):
    (tmp_path / "adapter_config.json").write_bytes(content)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="adapter_config.json"):
        models.load_for_inference(run.profile, tmp_path, QUIET)


def test_a_record_that_is_lost_would_be_found(run, monkeypatch):
    """The check itself: a reader that drops a line is caught."""
    monkeypatch.setattr(agreement, "read", lambda path: [Record])
    with pytest.raises(AssertionError, match="a silent drop"):
        attempt(run, "judged.jsonl", READERS["judged.jsonl"].valid, {"loads": 0, "refused": 0})
