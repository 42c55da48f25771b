"""A study in a world that fails: a disk that fills up, a folder that cannot be written, too little memory, a clock that jumps, somebody else.

Elsewhere: single files on a full or read-only disk (test_files), hashes and cut-off downloads (test_corpora), a server's faults
(test_teachers, test_asking), an installation that fails or is begun twice (test_bootstrap), SIGKILL (test_kills).
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from helpers import bootstrap, checkpoints, evaluation, files, pipeline, runtime
from helpers.__main__ import main
from tests import killing
from tests.test_files import mounted

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="each attempt is a fork")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What an undisturbed study comes to."""
    before = dict(os.environ)
    yield killing.undisturbed(tmp_path_factory.mktemp("undisturbed") / "home")[1]
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def disk(tmp_path):
    """A file system whose size can be changed: `disk.room(KiB)`; gone with the test."""
    place = tmp_path / "disk"
    if not mounted(place, "size=64k"):
        pytest.skip("needs root and mount; test_files and test_asking raise the errors instead")

    class Disk:
        path = place

        def room(self, size: int, *options: str) -> None:
            subprocess.run(["mount", "-o", ",".join(["remount", f"size={size}k", *options]), str(place)], check=True)

    yield Disk()
    subprocess.run(["umount", "-l", str(place)], check=True)


@needs_fork
@pytest.mark.slow
def test_a_disk_that_fills_up_at_any_write_costs_nothing(whole, disk):
    """From 64 KiB on, a little more room each time: the study gets as far as that, says so, and goes on."""
    home, room, generator = killing.prepare(disk.path / "home"), 64, random.Random(1)
    full = set()
    while (found := killing.attempt(home)).words:
        *_, last = found.output.strip().splitlines()
        assert re.fullmatch(r"error: /.*: the disk is full\. Free some space and run again.*", last), found.words
        assert "Traceback" not in found.output and not found.killed
        full.add(re.sub(r"\d+", "", last.split(": ")[1].removeprefix(str(home))))
        room += generator.randint(150, 400)
        disk.room(room)
    assert not killing.differences(whole, killing.outcome(home))
    assert len(full) >= 6 and any("arms" in place for place in full) and any("report" in place for place in full), full


def limit(megabytes: int) -> None:
    """No more address space than that beyond what is used now."""
    import resource

    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20,) * 2)


@needs_fork
@pytest.mark.slow
def test_too_little_memory_is_said_and_costs_nothing(whole, tmp_path):
    """Real limits on the address space. A library that ends the whole process then (SIGABRT, SIGSEGV) cannot be kept from it."""
    home, said = killing.prepare(tmp_path / "home"), 0
    for megabytes in (20, 80, 160, 300, 450):
        found = killing.attempt(home, beforehand=partial(limit, megabytes))
        assert "Traceback" not in found.output, found.words
        said += "error: memory ran out. Close other programs" in found.output
    assert said >= 2
    assert not killing.attempt(home).words and not killing.differences(whole, killing.outcome(home))


def jump() -> None:
    """A clock that is up to three days off, another way at every look at it."""
    real, generator = time.time, random.Random(1)
    time.time = lambda: real() + generator.uniform(-3e5, 3e5)


@needs_fork
@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(whole, tmp_path):
    home = killing.prepare(tmp_path / "home")
    found = killing.attempt(home, beforehand=jump)
    assert not found.words and not killing.differences(whole, killing.outcome(home))
    assert not re.search(r"-\d+(\.\d+)? s\b|-\d+:\d\d", found.output), "no time left below zero"


def test_durations_are_measured_with_a_clock_that_cannot_jump():
    """`time.time()` is for what is compared with a date from outside: Retry-After."""
    found = {p.name for p in (files.ROOT / "helpers").glob("*.py") if re.search(r"\btime\.time\(|datetime\.now\(\)", p.read_text(encoding="utf-8"))}
    assert found == {"endpoint.py"}


@pytest.mark.parametrize("setting", ["BONSAI_RUNS", "BONSAI_CACHE"])
def test_a_read_only_folder_is_one_line(disk, tmp_path, monkeypatch, capsys, setting):
    disk.room(64, "ro")
    for name in ("BONSAI_RUNS", "BONSAI_CACHE"):
        monkeypatch.setenv(name, str(disk.path if name == setting else tmp_path))
    monkeypatch.setenv("BONSAI_NO_VENV", "1")
    monkeypatch.setattr("helpers.corpora.tatoeba", killing.corpus)
    study = files.write_text(tmp_path / "mine.toml", killing.STUDY)
    assert main(["study", str(study), "--run", "r"]) == 1
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith(f"error: {disk.path}/") and "no permission to write here. Choose another folder" in last
    assert not os.listdir(disk.path)


@needs_fork
@pytest.mark.slow
def test_a_finished_study_on_a_disk_that_became_read_only_can_be_looked_at(disk):
    disk.room(20_000)
    home = killing.prepare(disk.path / "home")
    assert not killing.attempt(home).words
    disk.room(20_000, "ro")
    run = runtime.open_run("killed", study=str(home / "mine.toml"))
    said = []
    data = pipeline.ensure(run, train=True, say=said.append)
    evaluation.predict(run, data, say=said.append)
    assert len(said) == 7 and all("found" in line for line in said), said
    found = killing.attempt(home)
    assert found.words.strip().splitlines()[-1].startswith("error: ") and "Traceback" not in found.output


# Two in one folder


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    monkeypatch.setenv("BONSAI_NO_VENV", "1")
    monkeypatch.setattr("helpers.corpora.tatoeba", killing.corpus)
    return runtime.open_run("t", "tiny", train_pairs=16, dev_pairs=2, test_pairs=4, replay_pairs=8, questions=12, test_questions=4)


def test_two_commands_in_one_run_folder(run, capsys):
    with bootstrap.lock(run.folder.with_name(".t.lock")):
        assert main(["study", "quick", "--run", "other", "--profile", "tiny", "--plan"]) == 0
        runtime.open_run("s", "tiny")
        with bootstrap.lock(run.folder.with_name(".s.lock")):
            assert main(["study", "quick", "--run", "s", "--profile", "tiny"]) == 1
    assert capsys.readouterr().err.endswith("/s: another command is using this run folder.\n")


def test_two_notebooks_in_one_run_folder(run):
    """What only one may do at a time is refused; what is finished may be read meanwhile, and other arms be trained."""
    with bootstrap.lock(run.path(".data.lock")), pytest.raises(files.UserError, match="t/data: another notebook or command is making these data"):
        pipeline.curate(run)
    data = pipeline.ensure(run, say=lambda line: None)
    with bootstrap.lock(run.path(".data.lock")):
        assert pipeline.curate(run, say=lambda line: None) == data
    with bootstrap.lock(run.path("arms", "plain", ".seed0.lock")), pytest.raises(files.UserError, match="plain/seed0: another notebook or command is training"):
        pipeline.train_arm(run, data, "plain")
    assert not run.path("arms", "plain", "seed0").exists(), "nothing there was touched"
    base = evaluation.systems(run)[0]
    with bootstrap.lock(run.path("predictions", ".base.lock")), pytest.raises(files.UserError, match="another notebook or command is making these predictions"):
        evaluation.predict(run, data, some=[base])


@pytest.mark.slow
def test_an_arm_waits_for_the_part_that_another_process_trains(run):
    data = pipeline.ensure(run, say=lambda line: None)
    # A thread stands for the other process: the lock belongs to the open file, not to the process.
    other = threading.Thread(target=pipeline.train_arm, args=(run, data, "plain"), kwargs={"say": lambda line: None}, daemon=True)
    with bootstrap.lock(run.path("arms", "shared", ".seed0.lock")):
        other.start()
        other.join(3)
        assert other.is_alive() and not run.path("arms", "plain", "seed0", "log.jsonl").exists(), "it waits"
    other.join(120)
    assert pipeline.is_trained(run, data, "plain")


# Checkpoints whose dates lie in the future


def interrupted(run, data, at: int, meanwhile=lambda folder: None) -> Path:
    folder = pipeline.arm_folder(run, "plain")

    def stop(row):
        if row["step"] == at:
            meanwhile(folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.train_arm(run, data, "plain", view=lambda steps: stop, say=lambda line: None)
    return folder


def into_the_future(folder: Path) -> None:
    for checkpoint in folder.glob("checkpoint-*"):
        os.utime(checkpoint, (time.time() + 1e6,) * 2)


def steps_kept(folder: Path) -> list[int]:
    return sorted(int(p.name.split("-")[1]) for p in folder.glob("checkpoint-*"))


@pytest.fixture
def long(run):
    """A training that saves at steps 2, 4, 8."""
    run = runtime.Run(run.folder, run.profile.replace(accumulation=1, evaluations=5, question_epochs=2), run.study)
    return run, pipeline.ensure(run, say=lambda line: None)


@pytest.mark.slow
def test_checkpoints_from_a_clock_that_was_wrong_do_not_push_out_new_ones(long):
    run, data = long
    folder = interrupted(run, data, 5)
    old = steps_kept(folder)
    into_the_future(folder)
    interrupted(run, data, 9)
    assert old == [2, 4] and steps_kept(folder) == [4, 8]


@pytest.mark.slow
def test_a_clock_that_goes_back_while_it_trains_loses_no_checkpoint(long):
    run, data = long
    folder = pipeline.arm_folder(run, "plain")

    def back(row):
        # What the checkpoints up to here look like after the clock has gone back.
        if row["step"] == 5:
            into_the_future(folder)
        if row["step"] == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipeline.train_arm(run, data, "plain", view=lambda steps: back, say=lambda line: None)
    assert checkpoints.last_checkpoint(folder).name == "checkpoint-8"
