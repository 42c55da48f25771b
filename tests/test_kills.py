"""A study that is killed again and again ends as one that was left alone; what a killed writer leaves is cleared away."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest

from helpers import checkpoints, files, pipeline, runtime
from tests import killing
from tests.test_training import checkpoint

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a kill needs fork")


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path, monkeypatch):
    """More of them: python tests/killing.py --kills 50."""
    for name in ("BONSAI_NO_VENV", "BONSAI_RUNS", "BONSAI_CACHE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # so that it is put back
    kills, studies = Counter(), 0
    for stage, _, wrong in killing.rounds(tmp_path, 20, seed=3):
        kills[stage] += stage != "end"
        studies += stage == "end"
        assert not wrong, wrong
    # a stage that is done before its moment to be killed ends that round, and one more study makes up for it
    assert kills.total() == 20 and studies >= 2 and all(kills[stage] for stage in killing.STAGES), (kills, studies)


def killed_while_writing(whole, path: Path, content: str, at: str) -> None:
    """A process that is killed inside the block, or between the two renames of a folder."""
    child = os.fork()
    if not child:
        rename = os.replace

        def replace(source, target):
            if at == "swap" and str(source).endswith(".part"):
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target)

        files.os.replace = replace
        with whole(path) as place:
            if whole is files.whole_file:
                place.write(content)
                place.flush()
            else:
                (place / "a.txt").write_text(content)
            if at == "block":
                os.kill(os.getpid(), signal.SIGKILL)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL


@pytest.mark.parametrize("at", ["block", "swap"])
@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("whole", [files.whole_file, files.whole_folder])
def test_what_a_killed_writer_left_is_cleared_away_by_the_next(tmp_path, whole, before, at):
    path = tmp_path / "a[1]*"
    content = (lambda: path.read_text()) if whole is files.whole_file else (lambda: (path / "a.txt").read_text())
    if before:
        with whole(path) as place:
            place.write("old") if whole is files.whole_file else (place / "a.txt").write_text("old")
    for _ in range(3):
        killed_while_writing(whole, path, "half", at)
    assert any(name.endswith(".part") for name in os.listdir(tmp_path)), "a kill leaves something"
    with whole(path) as place:
        assert path.exists() == before and (not before or content() == "old"), "what was put aside is back"
        assert len([n for n in os.listdir(tmp_path) if n.endswith((".part", ".old"))]) == 1
        place.write("new") if whole is files.whole_file else (place / "a.txt").write_text("new")
    assert os.listdir(tmp_path) == [path.name] and content() == "new"


@pytest.mark.parametrize("whole", [files.whole_file, files.whole_folder])
def test_a_writer_that_is_alive_keeps_its_temporary_file(tmp_path, whole):
    path = tmp_path / "a"

    def fill(place, text):
        place.write(text) if whole is files.whole_file else (place / "a.txt").write_text(text)

    with whole(path) as slow:
        child = os.fork()
        if not child:
            # Another process that writes the same path, without the parent's descriptors.
            os.execv(sys.executable, [sys.executable, "-c", (
                f"import sys; sys.path.insert(0, {str(files.ROOT)!r})\nfrom helpers import files\n"
                f"with files.{whole.__name__}({str(path)!r}) as f: f.write('quick') if {whole is files.whole_file} else (f / 'a.txt').write_text('quick')"
            )])  # fmt: skip
        assert os.waitpid(child, 0)[1] == 0
        fill(slow, "slow")
    assert (path if whole is files.whole_file else path / "a.txt").read_text() == "slow" and os.listdir(tmp_path) == ["a"]


def test_another_file_s_leftovers_are_left_alone(tmp_path):
    for name in (".b.abcdefgh.part", ".a.b.abcdefgh.part", ".a.part", "a.abcdefgh.part", ".a.abc.part"):
        (tmp_path / name).write_text("x")
    files.write_text(tmp_path / "a", "y")
    assert len(os.listdir(tmp_path)) == 6


@pytest.fixture
def arm(tmp_path, monkeypatch, pairs):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    monkeypatch.setattr("helpers.corpora.tatoeba", killing.corpus)
    run = runtime.open_run("t", "tiny", train_pairs=16, dev_pairs=2, test_pairs=4, replay_pairs=8, questions=12, test_questions=4)
    return run, pipeline.ensure(run, say=lambda line: None)


@pytest.mark.slow
@pytest.mark.parametrize("left", ["", '{\n  "best_global_step": null,\n'], ids=["nothing", "half"])
def test_a_checkpoint_that_was_cut_off_while_its_state_was_saved_is_made_again(arm, left):
    run, data = arm
    folder = pipeline.train_arm(run, data, "plain", say=lambda line: None)
    whole = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    (checkpoints.last_checkpoint(folder) / "trainer_state.json").write_text(left)
    (folder / "done.json").unlink()
    said = []
    pipeline.train_arm(run, data, "plain", say=said.append)
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == whole and any("Going on from step" in s for s in said)


def test_a_half_saved_checkpoint_is_not_taken(tmp_path):
    checkpoint(tmp_path, 5)
    checkpoint(tmp_path, 10, **{"trainer_state.json": ""})
    assert checkpoints.last_checkpoint(tmp_path).name == "checkpoint-5"
