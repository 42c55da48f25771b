"""What `doctor` says of this machine, and its exit code."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from helpers import bootstrap, doctor
from helpers.files import ROOT


@pytest.fixture(scope="module")
def answer():
    """What the running Python answers to the probe."""
    return doctor.ask(sys.executable)


@pytest.fixture
def here(monkeypatch, answer):
    """The running Python taken as it is, asked once."""
    monkeypatch.setenv("BONSAI_NO_VENV", "1")
    monkeypatch.setattr(doctor, "ask", lambda python: answer)


def test_the_probe_tells_versions_device_and_cache(answer):
    assert answer["versions"]["pytest" if "pytest" in answer["versions"] else "torch"]
    assert {"torch", "precision", "compute capability", "profile auto picks"} <= set(answer["describe"])
    assert set(answer["cached"]) == {"model", "corpus"}


def test_a_ready_machine_exits_0(here, capsys, monkeypatch):
    monkeypatch.setattr(doctor.notebooks, "listed", lambda: ["01", "02"])
    assert doctor.main() == 0
    out = capsys.readouterr().out
    for word in ("Python ", "memory", "disk for runs", "torch", "wanted", "precision", "corpus", "2 in notebooks/"):
        assert word in out
    assert out.endswith("Ready: python3 -m helpers run\n")


def test_what_is_missing_comes_with_the_way_out(here, capsys, monkeypatch, answer):
    monkeypatch.setattr(doctor, "memory_gb", lambda: (3.9, 3.0))
    monkeypatch.setitem(doctor.DISK_GB, "cache", 1e9)
    monkeypatch.setitem(answer["versions"], "trl", "0.1")
    del answer["versions"]["papermill"]
    assert doctor.main() == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("missing: ")]
    assert any("3.9 GB, a run needs 8 GB" in line and "Colab" in line for line in lines)
    assert any("disk space for cache" in line for line in lines)
    assert any("packages papermill" in line and "-m pip install -r requirements.txt" in line for line in lines)


def test_versions_outside_of_the_ranges_are_noted():
    ranges = {"trl": ">=0.29.1,<1.17", "torch": ">=2.11"}
    assert doctor._outside(ranges, {"trl": "1.17.0", "torch": "2.13.0+cpu"}) == ["trl"]


def test_it_runs_on_a_bare_python_and_installs_nothing(tmp_path):
    there = bootstrap.VENV.exists()
    environment = {
        **os.environ,
        "BONSAI_RUNS": str(tmp_path / "runs"),
        "BONSAI_CACHE": str(tmp_path / "cache"),
        "BONSAI_NO_VENV": "",
    }
    done = subprocess.run(
        [sys.executable, "-S", "-m", "helpers", "doctor"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stderr == "" and ".venv" in done.stdout and "not cached" in done.stdout
    assert bootstrap.VENV.exists() == there and list(tmp_path.iterdir()) == []
