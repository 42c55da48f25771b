"""The setup cell, executed with folders in place of Colab's and of the public host."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import notebooks


def cell(tmp_path: Path, cwd: Path, address: str, origin: Path | None = None) -> subprocess.CompletedProcess:
    """Execute the setup cell in `cwd`, with a folder in place of /content and of the public host."""
    source = notebooks.setup_source(address).replace('"/content"', repr(str(tmp_path / "content")))
    source = source.replace("https://github.com/{ADDRESS}.git", str(origin))
    return subprocess.run([sys.executable, "-I", "-c", source], cwd=cwd, capture_output=True, text=True)


@pytest.fixture
def repository(tmp_path):
    """A git repository whose `runtime.setup` prints where it is; `tmp_path/content` stands for Colab's folder."""
    root = tmp_path / "origin"
    (root / "helpers").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (root / "helpers/__init__.py").write_text("")
    (root / "helpers/runtime.py").write_text("def setup():\n    print('SETUP', __file__)\n")
    commit(root)
    (tmp_path / "content").mkdir()
    return root


def commit(root: Path) -> None:
    user = ["-c", "user.name=a", "-c", "user.email=a@b.invalid"]
    for command in (["init", "-q"], ["add", "."], [*user, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=root, check=True)


def test_the_setup_cell_finds_the_repository_above(tmp_path, repository):
    done = cell(tmp_path, repository / "notebooks", "")
    assert done.stdout == f"SETUP {repository}/helpers/runtime.py\n", done.stderr


def test_the_setup_cell_prefers_drive_then_clones_then_pulls(tmp_path, repository):
    content = tmp_path / "content"
    clone = content / notebooks.REPOSITORY
    assert f"SETUP {clone}/" in cell(tmp_path, content, "a/b", repository).stdout
    (repository / "helpers/runtime.py").write_text("def setup():\n    print('NEW')\n")
    commit(repository)
    assert cell(tmp_path, content, "a/b", repository).stdout.endswith("NEW\n")
    shutil.rmtree(repository)  # without network the clone that is there is good enough
    assert cell(tmp_path, content, "a/b", repository).stdout.endswith("NEW\n")
    drive = content / "drive/MyDrive" / notebooks.REPOSITORY
    shutil.move(clone, drive)
    assert cell(tmp_path, content, "", repository).stdout == "NEW\n"


@pytest.mark.parametrize(("address", "said"), [("", "not set"), ("a/b", "a/b")])
def test_the_setup_cell_says_the_way_out(tmp_path, repository, address, said):
    done = cell(tmp_path, tmp_path / "content", address, tmp_path / "nowhere")
    assert done.returncode == 1 and done.stdout == ""
    line = done.stderr.splitlines()[-1]
    assert (
        line.startswith("Repository not found. Put the folder bonsai-reasoning-notebooks into MyDrive")
        and said in line
    )
    assert "Traceback" not in done.stderr


def test_the_setup_cell_is_short():
    source = notebooks.setup_source("a/b")
    assert len(source.splitlines()) <= 20 and source.startswith("#@title Setup / 準備\n# ")
    assert max(map(len, source.splitlines())) <= 120
