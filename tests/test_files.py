"""Files are whole or absent, whatever goes wrong while they are written, and the message tells the way out."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers import files
from helpers.files import UserError, read_json, whole_file, whole_folder, write_json, write_text

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
QUOTA = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
# What safetensors raises on a full disk is no OSError; what shutil.copytree raises has no errno.
SAFETENSORS = RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")
COPYTREE = shutil.Error([("a", "b", "[Errno 28] No space left on device: 'a' -> 'b'")])


def mounted(folder: Path, options: str) -> bool:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    with contextlib.suppress(OSError):
        return os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
    return False


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 64 KiB."""
    disk = tmp_path / "disk"
    if not mounted(disk, "size=64k"):
        pytest.skip("needs root and mount; the raised errors below stand in for it")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.fixture
def read_only(tmp_path):
    """A folder that nobody, root included, can write."""
    folder = tmp_path / "locked"
    if os.geteuid():
        folder.mkdir(mode=0o555)
        yield folder
        folder.chmod(0o755)
    elif mounted(folder, "size=64k,ro"):
        yield folder
        subprocess.run(["umount", "-l", str(folder)], check=True)
    else:
        pytest.skip("root may write everywhere and mount does not work here")


def one_line(error: pytest.ExceptionInfo, path: Path, *words: str) -> None:
    message = str(error.value)
    assert "\n" not in message and message.startswith(f"{path}: "), message
    for word in words:
        assert word in message, message


def test_a_whole_file_appears_at_the_end_only(tmp_path):
    path = tmp_path / "new" / "日本語 a.txt"
    with whole_file(path) as f:
        f.write("一\r\n二\n")
        f.flush()
        assert not path.exists()
        inode = os.fstat(f.fileno()).st_ino
    assert path.stat().st_ino == inode, "renamed, not copied: no reader ever sees half of it"
    assert path.read_bytes() == "一\r\n二\n".encode(), "UTF-8 and no newline changed, on every system"
    assert path.stat().st_mode & 0o777 == 0o644 or os.name == "nt"
    assert os.listdir(path.parent) == [path.name]
    with whole_file(path, "wb") as f:
        f.write(b"\xff\r\n")
    assert path.read_bytes() == b"\xff\r\n"


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), FULL, UserError("own words")], ids=repr)
def test_a_file_that_fails_leaves_what_was_there(tmp_path, before, error):
    path = tmp_path / "a.txt"
    if before:
        path.write_text(before)
    with pytest.raises((type(error), UserError)) as caught, whole_file(path) as f:
        f.write("half")
        raise error
    assert os.listdir(tmp_path) == ([path.name] if before else [])
    assert not before or path.read_text() == before
    if not isinstance(error, OSError):
        assert caught.value is error, "what is no trouble with files is not renamed"


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), FULL, COPYTREE, SAFETENSORS], ids=repr)
def test_a_folder_that_fails_leaves_what_was_there(tmp_path, before, error):
    path = tmp_path / "adapter"
    if before:
        write_text(path / "old.txt", "old")
    with pytest.raises((type(error), UserError)), whole_folder(path) as temporary:
        write_text(temporary / "sub" / "new.txt", "half")
        raise error
    assert os.listdir(tmp_path) == ([path.name] if before else [])
    assert not before or [p.name for p in path.iterdir()] == ["old.txt"]


def test_a_whole_folder_takes_the_place_of_the_old_one(tmp_path):
    path = tmp_path / "adapter"
    write_text(path / "sub" / "old.txt", "old")
    with whole_folder(path) as temporary:
        write_text(temporary / "new.txt", "new")
        assert (path / "sub" / "old.txt").exists()
    assert [p.name for p in path.rglob("*")] == ["new.txt"] and os.listdir(tmp_path) == ["adapter"]
    assert path.stat().st_mode & 0o777 == 0o755 or os.name == "nt"


def test_the_old_folder_comes_back_when_the_swap_fails(tmp_path, monkeypatch):
    path = tmp_path / "adapter"
    write_text(path / "old.txt", "old")
    rename = os.replace

    def failing(source, target):
        if str(source).endswith(".part") and Path(target) == path:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    with pytest.raises(UserError) as caught, whole_folder(path) as temporary:
        write_text(temporary / "new.txt", "new")
        monkeypatch.setattr(files.os, "replace", failing)
    assert [p.name for p in path.iterdir()] == ["old.txt"] and os.listdir(tmp_path) == ["adapter"]
    one_line(caught, path, "Input/output error", "Choose another folder")


def test_the_old_folder_is_not_removed_before_the_new_one_is_in_place(tmp_path, monkeypatch):
    path = tmp_path / "adapter"
    write_text(path / "old.txt", "old")

    def stuck(folder, ignore_errors=False, **_):
        if not ignore_errors:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.shutil, "rmtree", stuck)
    with whole_folder(path) as temporary:
        write_text(temporary / "new.txt", "new")
    assert [p.name for p in path.iterdir()] == ["new.txt"]


def test_a_folder_does_not_take_the_place_of_a_file(tmp_path):
    path = write_text(tmp_path / "a", "kept")
    with pytest.raises(UserError) as caught, whole_folder(path):
        pass
    one_line(caught, path, "cannot be written")
    assert path.read_text() == "kept" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("error", [FULL, QUOTA, SAFETENSORS, COPYTREE], ids=repr)
@pytest.mark.parametrize("whole", [whole_file, whole_folder])
def test_every_kind_of_full_disk_is_named(tmp_path, whole, error):
    path = tmp_path / "a"
    with pytest.raises(UserError) as caught, whole(path):
        raise error
    one_line(caught, path, "disk is full", "Free some space and run again")
    assert not os.listdir(tmp_path)


def test_a_file_on_a_full_disk(small_disk):
    kept = write_text(small_disk / "kept.txt", "kept")
    with pytest.raises(UserError) as caught:
        write_text(small_disk / "big.txt", "x" * 300_000)
    one_line(caught, small_disk / "big.txt", "disk is full", "Free some space")
    with pytest.raises(UserError):
        write_json(kept, ["x" * 300_000])
    assert os.listdir(small_disk) == ["kept.txt"] and kept.read_text() == "kept"
    assert write_text(small_disk / "small.txt", "fits again").exists()


def test_a_folder_on_a_full_disk(small_disk):
    numpy = pytest.importorskip("numpy")
    tensors = pytest.importorskip("safetensors.numpy")
    path = small_disk / "adapter"
    with pytest.raises(UserError) as caught, whole_folder(path) as temporary:
        (temporary / "config.json").write_text("{}")
        tensors.save_file({"a": numpy.zeros(100_000)}, temporary / "model.safetensors")
    one_line(caught, path, "disk is full", "Free some space")
    assert not os.listdir(small_disk)


def test_a_copied_folder_on_a_full_disk(small_disk, tmp_path):
    write_text(tmp_path / "checkpoint" / "a.bin", "x" * 300_000)
    with pytest.raises(UserError) as caught, whole_folder(small_disk / "copy") as temporary:
        shutil.copytree(tmp_path / "checkpoint", temporary, dirs_exist_ok=True)
    one_line(caught, small_disk / "copy", "disk is full", "Free some space")
    assert not os.listdir(small_disk)


@pytest.mark.parametrize("whole", [whole_file, whole_folder])
@pytest.mark.parametrize("below", ["a", "new/a"])
def test_a_read_only_folder(read_only, whole, below):
    path = read_only / below
    with pytest.raises(UserError) as caught, whole(path):
        raise AssertionError("nothing to write into")
    one_line(caught, path, "no permission", "BONSAI_RUNS or BONSAI_CACHE")
    assert not os.listdir(read_only)


def test_a_file_in_the_way_of_a_folder(tmp_path):
    write_text(tmp_path / "a", "kept")
    with pytest.raises(UserError) as caught:
        write_text(tmp_path / "a" / "b", "x")
    one_line(caught, tmp_path / "a" / "b", "cannot be written", "Choose another folder")


def test_another_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError) as caught, whole_file(tmp_path / "out") as f:
        f.write((tmp_path / "source.txt").read_text())
    one_line(caught, tmp_path / "out", "source.txt")


def test_json_round_trip(tmp_path):
    value = {"b": [1, 2.5, None, True], "a": '日本 🌳 \u2028 " \\ \n'}
    path = write_json(tmp_path / "a.json", value)
    assert read_json(path) == value
    assert "日本" in path.read_text(encoding="utf-8"), "people read these files"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["no such file"]),
        (b"{\n 1}", ["not valid JSON", "line 2", "Remove it and run again"]),
        (b'"\xff"', ["not valid JSON", "Remove it"]),
        (b"", ["not valid JSON"]),
        (b"[" * 100_000, ["not valid JSON"]),
    ],
)
def test_unreadable_json(tmp_path, content, words):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path)
    one_line(caught, path, *words)


def test_a_folder_is_no_json_file(tmp_path):
    with pytest.raises(UserError) as caught:
        read_json(tmp_path)
    one_line(caught, tmp_path, "cannot be read")


def test_sha256_of_a_known_text(tmp_path):
    path = write_text(tmp_path / "a", "abc")  # FIPS 180-2, appendix B.1
    assert files.sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_cache_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("BONSAI_CACHE", str(tmp_path))
    assert files.cache_folder() == tmp_path
    monkeypatch.setenv("BONSAI_CACHE", "")
    assert files.cache_folder().parts[-2:] == (".cache", "bonsai-reasoning")
