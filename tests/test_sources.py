"""Every source says what it is owed; a hub data set is read by the real loader, here from folders in the layout of the hub."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from helpers import corpora, records, sources
from helpers.files import UserError, sha256
from helpers.records import RecordError

ROWS = [
    {"translation": {"ja": "駅はどこですか。", "en": "Where is the station?"}, "score": 0.9},
    {"translation": {"ja": "水をください。", "en": "Water, please."}, "score": 0.8},
    {"translation": {"ja": "今日は暑い。", "en": "It is hot today."}, "score": 0.7},
]
CARD = """---
license: cc-by-sa-4.0
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train*
  - split: test
    path: data/test*
- config_name: small
  data_files: small.parquet
---
# Pairs
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")


@pytest.fixture
def folder(tmp_path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = tmp_path / "my pairs"
    (made / "data").mkdir(parents=True)
    (made / "README.md").write_text(CARD, encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(ROWS[:2]), made / "data" / "train-00000-of-00001.parquet")
    pq.write_table(pa.Table.from_pylist(ROWS[2:]), made / "data" / "test-00000-of-00001.parquet")
    lines = [{"日本語": "水は何色ですか？", "英語": "What color is water?", "答え": "Clear", "別解": ["Colorless"]}]
    pq.write_table(pa.Table.from_pylist(lines), made / "small.parquet")
    return made


def test_the_authored_set():
    found = sources.authored()
    assert found.records == tuple(corpora.questions())
    assert found.to_manifest() == {
        "name": "data/questions.jsonl", "license": "CC BY 4.0", "attribution": "The BONSAI Reasoning Notebooks authors",
        "revision": f"sha256:{sha256(corpora.QUESTIONS)}", "records": len(found.records),
    }  # fmt: skip


def test_facts():
    found = sources.facts(30, seed=2)
    assert len(found.records) == 30 and "Unicode License v3" in found.license and "LGPL-2.1" in found.license
    assert "pycountry" in found.revision and "CLDR" in found.attribution


def test_a_table_names_no_path(tmp_path):
    path = tmp_path / "私の文.csv"
    path.write_text("日本語,英語\n雨だ。,It is raining.\n", encoding="utf-8")
    found = sources.table(path, license="CC0 1.0", attribution="Hanako", say=str)
    assert found.to_manifest() == {
        "name": "私の文.csv", "license": "CC0 1.0", "attribution": "Hanako", "revision": f"sha256:{sha256(path)}", "records": 1,
    }  # fmt: skip
    assert found.records[0].license == "CC0 1.0" and str(tmp_path) not in repr(found)
    assert sources.table(path, say=str).license == "as its records say"


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_layout_with_nested_columns(folder, streaming):
    columns = {"ja": "translation.ja", "en": "translation.en"}
    found = sources.hub(str(folder), columns=columns, streaming=streaming, say=str)
    assert [(r.ja, r.en, r.task) for r in found.records] == [(r["translation"]["ja"], r["translation"]["en"], "translate") for r in ROWS[:2]]
    assert found.name == "my pairs" and found.license == "cc-by-sa-4.0" and re.fullmatch(r"sha256:[0-9a-f]{64}", found.revision)
    assert all(r.license == "cc-by-sa-4.0" and r.source == "my pairs" and r.id.startswith("my-pairs-") for r in found.records)
    assert str(folder) not in repr(found)


def test_columns_are_guessed_and_the_unused_are_said(folder):
    said = []
    assert len(sources.hub(str(folder), say=said.append).records) == 2
    assert said == ["my pairs: columns not used: score."]


def test_config_split_and_limit(folder):
    (record,) = sources.hub(str(folder), config="small", say=str).records
    assert (record.task, record.answer, record.aliases) == ("qa", "Clear", ("Colorless",))
    assert [r.ja for r in sources.hub(str(folder), "test", say=str).records] == ["今日は暑い。"]
    assert len(sources.hub(str(folder), limit=1, say=str).records) == 1
    assert [r.ja for r in sources.hub(str(folder), "train[1:]", say=str).records] == ["水をください。"]
    assert sources.hub(str(folder), license="mine", say=str).license == "mine"


def test_the_revision_follows_the_content(folder):
    before = sources.hub(str(folder), say=str).revision
    assert sources.hub(str(folder), say=str).revision == before
    (folder / "README.md").write_text(CARD.replace("cc-by-sa-4.0", "mit"), encoding="utf-8")
    after = sources.hub(str(folder), say=str)
    assert after.revision != before and after.license == "mit"


def test_a_folder_without_a_card(tmp_path):
    made = tmp_path / "plain"
    made.mkdir()
    records.write(made / "train.jsonl", corpora.questions()[:5])
    found = sources.hub(str(made), say=str)
    assert len(found.records) == 5 and found.license == "not named on its card"
    assert [r.id for r in found.records] == [r.id for r in corpora.questions()[:5]]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"split": "validation"}, r"my pairs \(config 'default', split 'validation'\): cannot be loaded .*validation"),
        ({"config": "big"}, r"my pairs \(config 'big', split 'train'\): cannot be loaded .*big"),
        ({"columns": {"ja": "translation.ja"}}, r"my pairs: no column for 'en' .*'translation.ja', 'translation.en', 'score'"),
        ({"columns": {"ja": "translation.ja", "en": "translation.de"}}, r"my pairs: no column 'translation.de' for the field 'en'"),
        ({"limit": 0}, r"limit is 0"),
        ({"task": "chat"}, r"task is 'chat'"),
    ],
)
def test_errors_are_one_line_with_the_way_out(folder, arguments, error):
    with pytest.raises(UserError, match=error) as caught:
        sources.hub(str(folder), say=str, **arguments)
    assert "\n" not in str(caught.value)


def test_a_row_that_is_no_record_is_named(tmp_path):
    made = tmp_path / "mine"
    made.mkdir()
    (made / "train.jsonl").write_text('{"ja": "雨だ。", "en": "Rain."}\n{"ja": " ", "en": "Snow."}\n', encoding="utf-8")
    with pytest.raises(RecordError, match=r"mine, train, row 2, field 'ja' \(column 'ja'\): expected a non-empty string"):
        sources.hub(str(made), say=str)


def test_a_damaged_file_is_one_error(folder):
    path = folder / "data" / "train-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match="my pairs .*cannot be loaded") as caught:
        sources.hub(str(folder), say=str)
    assert "\n" not in str(caught.value)


def test_code_in_a_data_set_never_runs(tmp_path):
    made = tmp_path / "scripted"
    made.mkdir()
    (made / "scripted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="scripted"):
        sources.hub(str(made), say=str)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["", "a/b/c", "https://huggingface.co/datasets/a/b", "../up", "a b", "/nowhere/at/all"])
def test_names_that_are_none(name):
    with pytest.raises(UserError, match=r"expected OWNER/NAME"):
        sources.hub(name, say=str)


class Hub(http.server.BaseHTTPRequestHandler):
    """The hub's answers for a data set that is gated, private or absent."""

    def do_GET(self):
        gated = "gated" in self.path
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("X-Error-Message", "Access to dataset is restricted." if gated else "Repository not found")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *args):
        pass


def ask(tmp_path, name: str, **environment: str) -> str:
    """What `hub` raises in a fresh interpreter: the address of the hub is read at import."""
    code = (
        "import sys\nfrom helpers import sources\nfrom helpers.files import UserError\n"
        "try: sources.hub(sys.argv[1], say=str)\nexcept UserError as error: print(error)"
    )
    kept = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    home = {"HF_HOME": str(tmp_path), "HF_TOKEN": "hf_secretsecretsecret", "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", code, name], capture_output=True, text=True, cwd=corpora.QUESTIONS.parents[1], env=kept | home | environment
    )
    assert "hf_secret" not in done.stdout + done.stderr
    return done.stdout.strip()


def test_gated_absent_and_offline(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        gated = ask(tmp_path, "someone/gated", HF_ENDPOINT=address)
        absent = ask(tmp_path, "someone/absent", HF_ENDPOINT=address)
    finally:
        server.shutdown()
        server.server_close()
    assert gated.startswith("someone/gated: the hub asks who you are") and "HF_TOKEN" in gated and "\n" not in gated
    assert absent.startswith("someone/absent: no such data set or revision on the hub")
    offline = ask(tmp_path, "someone/pairs", HF_HUB_OFFLINE="1")
    assert offline.startswith("someone/pairs: the hub cannot be reached and the data set is not in the cache")


def test_the_translation_feature_of_a_card(folder):
    declared = """dataset_info:
  features:
  - name: translation
    dtype:
      translation:
        languages:
        - ja
        - en
  - name: score
    dtype: float64
"""
    configs = CARD.split("configs:")[1].split("- config_name: small")[0]
    (folder / "README.md").write_text(f"---\nlicense: mit\n{declared}configs:{configs}---\n", encoding="utf-8")
    found = sources.hub(str(folder), say=str)
    assert [r.en for r in found.records] == ["Where is the station?", "Water, please."] and found.license == "mit"
