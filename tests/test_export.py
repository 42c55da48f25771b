"""Taking a model home: what is on the disk is what was trained, what would go to the hub is what is shown, and llama.cpp says the same."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import errno
import functools
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from helpers import __main__ as cli
from helpers import (
    bootstrap,
    corpora,
    export,
    files,
    gguf_export,
    inference,
    model_card,
    models,
    profiles,
    prompts,
    runtime,
    studies,
)
from tests.test_families import with_images

FAMILIES = ["tiny", "tiny-phi", "tiny-phi3"]
TOKEN = "hf_" + "secret" * 5
RESULTS = {
    "translation": [{"system": a, "value": v, "low": v - 2, "high": v + 2, "n": 300, "seeds": 2} for a, v in (("plain", 31.5), ("reasoned-33", 33.3))],
    "by_seed": [
        {"arm": "reasoned-33", "seed": s, "decoding": "asked", "set": "authored", "stage": "S4", "value": v, "low": v - 3, "high": v + 4, "n": 320}
        for s, v in ((1, 41.7), (2, 58.2))
    ],
    "paired": [{"a": "reasoned-33", "b": "plain", "stage": "S4", "seeds": 2, "verdict": "S4, authored: no detectable difference, +0.4 points [-3.2, +4.0]."}],
}


def silent(*_):
    pass


def make_adapter(profile, folder: Path, std: float = 0.2) -> Path:
    """An adapter of the profile's base with random weights on both sides."""
    import torch

    model = models.add_adapter(models.load_base(profile, say=silent), profile)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    model.save_pretrained(folder)
    return folder


def make_run(name: str, folder: Path) -> export.Trained:
    """A run folder with a trained arm reasoned-33, seed 1."""
    run = runtime.Run(folder / name, profiles.choose(name), studies.load("quick"))
    files.write_json(run.path("run.json"), {"profile": name, "model_id": "", "study": "quick", "changes": {}})
    make_adapter(run.profile, run.path("arms", "reasoned-33", "seed1", "adapter"))
    return export.find(run, "reasoned-33")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Makes each family's run once."""
    folder = tmp_path_factory.mktemp("runs")
    return functools.cache(lambda name: make_run(name, folder))


@pytest.fixture(params=FAMILIES)
def trained(request, runs) -> export.Trained:
    return runs(request.param)


@pytest.fixture
def one(runs, tmp_path, monkeypatch) -> export.Trained:
    """The Gemma-like tiny model in a run folder of the test's own, where the commands look for it."""
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path / "runs"))
    template = runs("tiny")
    shutil.copytree(template.run.folder, tmp_path / "runs" / "tiny")
    return export.find(runtime.Run(tmp_path / "runs" / "tiny", template.run.profile, template.run.study), template.arm)


def load(folder: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def texts(profile, questions) -> list[str]:
    return [prompts.prompt(profile.model.prompt_style, ("translate", "multistep")[i % 2], ja=q.ja) for i, q in enumerate(questions)]


# --- merged ---


def test_the_saved_model_has_the_logits_of_base_and_adapter_apart(trained, tmp_path, questions, fp32):
    import torch
    from peft import PeftModel

    profile = trained.run.profile
    folder = export.save(trained, tmp_path / "out", "float32", say=silent)
    base = models.dense(models.load_base(profile))
    saved, tokenizer = load(folder)
    ids = tokenizer(texts(profile, questions[:1]), return_tensors="pt")["input_ids"]
    with torch.no_grad():
        alone = base(ids).logits
        apart = PeftModel.from_pretrained(base, str(trained.adapter)).eval()(ids).logits
        found = saved(ids).logits
    assert found.dtype == torch.float32 and (found - apart).abs().max() < 1e-4 * apart.abs().max()
    assert (apart - alone).abs().max() > 0.05 * alone.abs().max(), "the adapter matters"


def test_greedy_outputs_from_disk_are_those_of_the_merged_in_memory(trained, tmp_path, questions, fp32):
    profile = trained.run.profile
    folder = export.save(trained, tmp_path / "out", "float32", say=silent)
    asked = texts(profile, questions[:12])
    tokenizer = models.load_tokenizer(profile)
    in_memory = inference.generate(models.load_for_inference(profile, trained.adapter), tokenizer, profile, asked, 12)
    saved, own = load(folder)
    own.padding_side = "left"
    assert inference.generate(saved, own, profile, asked, 12) == in_memory
    assert inference.generate(models.load_for_inference(profile), tokenizer, profile, asked, 12) != in_memory, "the adapter matters"
    # As a stranger would: tokenizer and generate as they come.
    for text, expected in zip(asked, in_memory, strict=True):
        inputs = own(text, return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == prompts.encode_prompt(tokenizer, text)
        output = saved.generate(**inputs, max_new_tokens=12)[0, inputs["input_ids"].shape[1] :].tolist()
        assert own.decode([t for t in output if t not in ends(saved)]).strip() == expected.text


def ends(model) -> list[int]:
    found = model.generation_config.eos_token_id
    return found if isinstance(found, list) else [found]


def test_the_saved_model_stops_where_the_style_does(trained, tmp_path):
    import torch

    profile = trained.run.profile
    saved, tokenizer = load(export.save(trained, tmp_path / "out", say=silent))
    end = prompts.end_id(tokenizer, profile.model.prompt_style)
    assert set(ends(saved)) == {end, tokenizer.eos_token_id} and saved.config.eos_token_id == saved.generation_config.eos_token_id
    assert (end == tokenizer.convert_tokens_to_ids("<|end|>")) == (profile.model.prompt_style == "phi-3")
    assert not saved.generation_config.do_sample and saved.generation_config.max_new_tokens == profile.recipe.multistep_budget
    saved.lm_head = torch.nn.Linear(saved.lm_head.in_features, models.TINY_VOCABULARY, dtype=saved.dtype)
    torch.nn.init.zeros_(saved.lm_head.weight)
    torch.nn.init.zeros_(saved.lm_head.bias)
    saved.lm_head.bias.data[end] = 1
    inputs = tokenizer("水", return_tensors="pt")
    assert saved.generate(**inputs).shape[1] == inputs["input_ids"].shape[1] + 1


@pytest.mark.parametrize("dtype", ["auto", *export.DTYPES])
def test_weights_are_in_the_dtype_that_was_asked_for(one, tmp_path, dtype):
    import torch
    from safetensors import safe_open

    said = []
    folder = export.save(one, tmp_path / "out", dtype, say=said.append)
    wanted = runtime.device(one.run.profile.model.fp16_safe).dtype if dtype == "auto" else getattr(torch, dtype)
    with safe_open(folder / "model.safetensors", "pt") as f:
        assert {f.get_tensor(name).dtype for name in f.keys()} == {wanted}
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(wanted).removeprefix("torch.")
    assert "quantization_config" not in (folder / "config.json").read_text()
    # In the dtype that this machine computes in, they are the weights that were measured.
    if dtype == "auto":
        measured = models.load_for_inference(one.run.profile, one.adapter).state_dict()
        saved = load(folder)[0].state_dict()
        assert measured.keys() == saved.keys() and all(torch.equal(measured[name], saved[name]) for name in saved)


def test_float16_of_a_model_that_it_may_overflow_is_said(one, tmp_path):
    said = []
    unsafe = dataclasses.replace(one.run.profile, model=dataclasses.replace(one.run.profile.model, fp16_safe=False))
    folder = export.save(dataclasses.replace(one, run=dataclasses.replace(one.run, profile=unsafe)), tmp_path / "out", "float16", say=said.append)
    assert "bfloat16 or float32" in said[0] and "Compute in bfloat16 or float32" in (folder / "README.md").read_text()


def test_no_file_names_a_place_of_this_machine(one, tmp_path):
    folder = export.save(one, tmp_path / "out", say=silent)
    places = [str(p).encode() for p in (files.cache_folder(), one.run.folder, tmp_path, Path.home())]
    with export.adapter_folder(one) as adapter:
        read = {p.name: p.read_bytes() for f in (folder, adapter) for p in f.iterdir()}
    assert {"README.md", "LICENSE.txt", "config.json", "model.safetensors", "adapter_config.json", "adapter_model.safetensors"} <= read.keys()
    assert not [(name, place) for name, data in read.items() for place in places if place in data]


# --- the card ---


def python_block(card: str) -> str:
    return re.search(r"```python\n(.*?)\n```", card, re.DOTALL)[1]


def test_the_card_s_program_runs_and_writes_what_the_model_does(one, tmp_path, fp32):
    folder = export.save(one, tmp_path / "out", "float32", say=silent)
    code, out = python_block((folder / "README.md").read_text(encoding="utf-8")), io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code.replace("FOLDER", str(folder)), {})
    prompt = re.search(r"^prompt = (.*)$", code, re.MULTILINE)[1]
    profile = one.run.profile
    model, tokenizer = models.load_for_inference(profile, one.adapter), models.load_tokenizer(profile)
    (expected,) = inference.generate(model, tokenizer, profile, [eval(prompt)], profile.recipe.multistep_budget)
    assert expected.text and out.getvalue().strip() == expected.text


def test_the_program_on_an_adapter_s_card_puts_it_on_the_language_model_of_a_base_with_images(tmp_path, fp32):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tiny, base = profiles.choose("tiny"), tmp_path / "base"
    tokenizer = models.load_tokenizer(tiny)
    tokenizer.save_pretrained(base)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(with_images(sizes | {"vocab_size": len(tokenizer), "pad_token_id": 0, "initializer_range": 0.2})).save_pretrained(base)
    profile = dataclasses.replace(tiny, model=dataclasses.replace(tiny.model, source="hub", identifier=str(base)))
    run = runtime.Run(tmp_path / "run", profile, studies.load("quick"))
    folder = run.path("arms", "reasoned-33", "seed1")
    make_adapter(profile, folder / "adapter")
    files.write_json(folder / "done.json", {"steps": 1, "tokens_seen": 1, "precision": "float32", "device": "CPU", "model_class": "Gemma3ForCausalLM"})
    said: dict = {}
    with export.adapter_folder(export.find(run, "reasoned-33")) as made, contextlib.redirect_stdout(io.StringIO()):
        code = python_block((made / "README.md").read_text(encoding="utf-8"))
        exec(code.replace("FOLDER", str(made)).replace('"base"', f'"{base}"'), said)
    ids = torch.randint(6, 200, (1, 9))
    expected = PeftModel.from_pretrained(models.pretrained(str(base)), str(folder / "adapter")).eval()
    with torch.no_grad():
        assert torch.allclose(said["model"](input_ids=ids).logits, expected(input_ids=ids).logits, atol=1e-5)
        with expected.disable_adapter():
            assert not torch.allclose(said["model"](input_ids=ids).logits, expected(input_ids=ids).logits, atol=1e-2)


def test_the_card_has_the_numbers_of_its_arm_and_seed_and_no_other(one):
    made = model_card.card(one.run, one.arm, one.seed, "adapter")
    assert "Not measured: the run folder has no results of this arm and seed." in made and "interval" not in made
    files.write_json(one.run.path("report", "results.json"), RESULTS)
    assert "Not measured: the results in the run folder are of another adapter." in model_card.card(one.run, one.arm, one.seed, "adapter")
    predicted(one)
    made = model_card.card(one.run, one.arm, one.seed, "adapter")
    assert "| S4, translate, then answer, in one call, asked for Reasoning | authored | 41.7 % [38.7, 45.7] | 320 |" in made
    assert "| chrF++ on unseen sentence pairs, mean over 2 seeds | | 33.3 [31.3, 35.3] | 300 |" in made
    assert "no detectable difference, +0.4 points [-3.2, +4.0]; seeds: 2." in made
    assert "58.2" not in made and "31.5" not in made
    assert "Not measured" in model_card.card(one.run, "plain", 1, "adapter")
    with (one.adapter / "adapter_model.safetensors").open("ab") as f:
        f.write(b"trained anew")
    made = model_card.card(one.run, one.arm, one.seed, "adapter")
    assert "are of another adapter" in made and "41.7" not in made and "33.3" not in made


def predicted(one: export.Trained) -> None:
    """The mark that `evaluation.predict` leaves, of this adapter."""
    marker = one.run.path("predictions", one.arm, f"seed{one.seed}", "done.json")
    files.write_json(marker, {"adapter": files.sha256(one.adapter / "adapter_model.safetensors")})


ROW = {"task": "qa", "source": "mine", "license": ""}
DONE = {"steps": 3, "tokens_seen": 40, "precision": "float32", "device": "CPU"}
SOURCE = {"name": "mine", "license": "MIT", "attribution": "Me"}


def without(value: dict, name: str) -> dict:
    return {k: v for k, v in value.items() if k != name}


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("data/train.jsonl", json.dumps(ROW) + "\n" + json.dumps(ROW)[:20], "train.jsonl, line 2: not valid JSON"),
        ("data/train.jsonl", json.dumps(without(ROW, "license")), "train.jsonl, line 1, field 'license'"),
        ("data/manifest.json", json.dumps({"sources": [without(SOURCE, "attribution")]}), "manifest.json, sources, field 'attribution'"),
        ("data/manifest.json", json.dumps({"sources": ["mine"]}), "manifest.json, sources, expected an object, found str"),
        ("reasoning/manifest.json", json.dumps({"teachers": {"me": 1}, "licences": {"rationales": []}}), "manifest.json, licences, field 'rationales'"),
        ("arms/reasoned-33/seed1/done.json", json.dumps(without(DONE, "device")), "done.json, field 'device'"),
        ("report/results.json", json.dumps(without(RESULTS, "by_seed")), "results.json, field 'by_seed'"),
        ("report/results.json", json.dumps(RESULTS | {"paired": [{"a": "reasoned-33"}]}), "results.json, paired, field 'stage'"),
        ("report/results.json", json.dumps(RESULTS | {"by_seed": [RESULTS["by_seed"][0] | {"stage": "S9"}]}), "results.json, by_seed, field 'stage'"),
    ],
)
def test_a_damaged_file_of_the_run_is_named(one, file, content, named):
    predicted(one)
    files.write_text(one.run.path("data", "train.jsonl"), json.dumps(ROW) + "\n")
    files.write_json(one.run.path("data", "manifest.json"), {"sources": [SOURCE]})
    files.write_json(one.run.path("arms", one.arm, "seed1", "done.json"), DONE)
    assert "3 steps, 40 tokens" in model_card.card(one.run, one.arm, one.seed, "adapter")
    files.write_text(one.run.path(*file.split("/")), content)
    with pytest.raises(files.UserError) as raised:
        model_card.card(one.run, one.arm, one.seed, "adapter")
    assert named in str(raised.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [("gemma3-270m", "ends, in the last one with the line break; the"), ("phi-2", "ends, in the last one with the line break; the"),
     ("phi-4-mini", "ends; the"), ("qwen3-1.7b-chat", "ends, in the last one with its 2 line breaks; the")],
)  # fmt: skip
def test_the_card_says_where_the_prompts_end(name, said):
    run = runtime.Run(Path("nowhere"), profiles.choose(name), studies.load("quick"))
    made = model_card.card(run, "plain", 0, "float16")
    assert f"The prompt ends where the block {said} completion" in made
    assert f"```\n{prompts.prompt(run.profile.model.prompt_style, 'answer', en=next(r for r in corpora.questions() if r.split == 'test').en)}\n```" in made


def test_the_card_tells_data_and_licences_from_the_run_folder(one):
    assert "not in the run folder any more" in model_card.card(one.run, one.arm, one.seed, "adapter")
    row = {"ja": "水", "en": "water"}
    pairs = [row | {"task": "translate", "source": "tatoeba", "license": "CC BY 2.0 FR"}] * 3
    rows = [*pairs, row | {"task": "qa", "source": "bonsai", "license": "CC BY 4.0"}, row | {"task": "qa", "source": "mine", "license": ""}]
    files.write_text(one.run.path("data", "train.jsonl"), "".join(json.dumps(r) + "\n" for r in rows))
    source = {"name": "tatoeba", "license": "CC BY 2.0 FR", "attribution": corpora.TATOEBA.attribution}
    files.write_json(one.run.path("data", "manifest.json"), {"sources": [source]})
    files.write_json(one.run.path("reasoning", "manifest.json"), {"teachers": {"authored": 3}, "licences": {"rationales": {"authored": "CC BY 4.0"}}})
    made = model_card.card(one.run, one.arm, one.seed, "adapter")
    assert "| sentence pairs | tatoeba | CC BY 2.0 FR | 3 |" in made and "| questions | mine | not stated | 1 |" in made
    assert "Sentences from Tatoeba (tatoeba.org), CC BY 2.0 FR" in model_card.licence(one.run, one.arm)
    assert "rationales by the teacher 'authored', CC BY 4.0." in made
    assert "rationales by" not in model_card.card(one.run, "plain", 1, "adapter")
    assert "rationales by the teacher 'authored', CC BY 4.0." in model_card.licence(one.run, "explained-33"), "after the answer they are theirs too"


def metadata(name: str, weights: str) -> dict:
    from huggingface_hub import ModelCard

    run = runtime.Run(Path("nowhere"), profiles.choose(name), studies.load("quick"))
    return ModelCard(model_card.card(run, "plain", 0, weights)).data.to_dict()


def test_the_metadata_name_base_and_licence_for_the_hub():
    found = metadata("gemma3-270m", "adapter")
    assert (found["base_model"], found["license"], found["library_name"]) == ("google/gemma-3-270m", "gemma", "peft")
    found = metadata("phi-2", "float16")
    assert (found["base_model"], found["license"], found["base_model_relation"]) == ("microsoft/phi-2", "mit", "finetune")
    found = metadata("qwen2.5-3b", "float16")
    assert (found["license"], found["license_name"]) == ("other", "qwen-research-license")
    assert "base_model" not in metadata("tiny", "float16")
    gemma = runtime.Run(Path("nowhere"), profiles.choose("gemma3-270m"), studies.load("quick"))
    assert "provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms" in model_card.licence(gemma, "plain")


def test_a_folder_as_base_is_called_by_its_name_alone(tmp_path):
    folder = tmp_path / "secret-place" / "my-model"
    folder.mkdir(parents=True)
    run = runtime.Run(tmp_path, profiles.choose("phi-2", model_id=str(folder)), studies.load("quick"))
    made = model_card.card(run, "plain", 0, "adapter") + model_card.licence(run, "plain")
    assert model_card.base_name(run) == "my-model" and "secret-place" not in made and "base_model:" not in made


# --- the hub ---


class Hub:
    """A stand-in for the hub on loopback: it makes repositories and takes commits, as far as `HfApi` asks for it."""

    def __init__(self, status: int = 200, private: bool = True):
        self.made: list[dict] = []
        self.files: dict[str, bytes] = {}
        self.messages: list[str] = []
        self.tokens: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                outer.tokens.add(self.headers.get("Authorization", ""))
                self.answer({"id": "me/model", "modelId": "me/model", "private": private, "tags": [], "siblings": []})

            def do_POST(self):
                outer.tokens.add(self.headers.get("Authorization", ""))
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.path == "/api/repos/create":
                    outer.made.append(json.loads(body))
                    self.answer({"url": f"{outer.address}/me/model"})
                elif self.path == "/api/validate-yaml":
                    self.answer({"errors": [], "warnings": []})
                elif "/preupload/" in self.path:
                    asked = json.loads(body)["files"]
                    self.answer({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None} for f in asked]})
                elif "/commit/" in self.path:
                    for line in map(json.loads, body.splitlines()):
                        if line["key"] == "header":
                            outer.messages.append(line["value"]["summary"])
                        else:
                            outer.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                    self.answer({"commitUrl": f"{outer.address}/me/model/commit/1", "commitOid": "1", "success": True})
                else:
                    self.answer({"error": f"not asked for: {self.path}"}, 500)

            def answer(self, body: dict, code: int = status):
                data = json.dumps(body if code == 200 else {"error": f"no: {self.headers.get('Authorization')}"}).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    @property
    def api(self):
        from huggingface_hub import HfApi

        return HfApi(endpoint=self.address)


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN)


@pytest.mark.parametrize(("with_token", "options"), [(False, {}), (True, {"dry_run": True})])
def test_without_a_token_or_dry_it_shows_what_would_be_uploaded_and_calls_nobody(one, monkeypatch, with_token, options):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: TOKEN if with_token else None)
    said = []
    with Hub() as hub:
        assert export.push(one, "me/model", say=said.append, api=hub.api, **options) == ""
        assert not hub.tokens and not hub.made
    text = "\n".join(said)
    with export.adapter_folder(one) as folder:
        listed = dict(re.findall(r"^ *([\d,]+)  (\S+)$", text, re.MULTILINE))
        assert {name: int(size.replace(",", "")) for size, name in listed.items()} == {p.name: p.stat().st_size for p in folder.iterdir()}
        assert text.endswith((folder / "README.md").read_text(encoding="utf-8"))
    assert "Nothing is uploaded" in text and "me/model (private)" in text and TOKEN not in text


def test_with_a_token_the_hub_gets_the_adapter_and_its_card(one, token, tmp_path, questions, fp32):
    import torch
    from peft import PeftModel

    said = []
    with Hub() as hub:
        assert export.push(one, "me/model", say=said.append, api=hub.api) == f"{hub.address}/me/model"
    (made,) = hub.made
    assert made["name"] == "model" and made["organization"] == "me" and (made.get("private") or made.get("visibility") == "private")
    assert hub.tokens == {f"Bearer {TOKEN}"} and TOKEN not in "".join(said)
    assert hub.messages == ["Adapter of reasoned-33, seed 1, with its card"]
    with export.adapter_folder(one) as folder:
        assert hub.files == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert TOKEN.encode() not in b"".join(hub.files.values())
    (tmp_path / "got").mkdir()
    for name, data in hub.files.items():
        (tmp_path / "got" / name).write_bytes(data)
    base = models.dense(models.load_base(one.run.profile))
    ids = torch.tensor([prompts.encode_prompt(models.load_tokenizer(one.run.profile), questions[0].ja)])
    with torch.no_grad():
        found = PeftModel.from_pretrained(base, str(tmp_path / "got")).eval()(ids).logits
        expected = models.load_for_inference(one.run.profile, one.adapter)(ids).logits
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_public_repository_is_written_only_if_that_is_said(one, token):
    with Hub(private=False) as hub:
        with pytest.raises(files.UserError, match="is there already, and public"):
            export.push(one, "me/model", say=silent, api=hub.api)
        assert not hub.files
        export.push(one, "me/model", public=True, say=silent, api=hub.api)
        assert "README.md" in hub.files and hub.made[-1].get("private") is not True and hub.made[-1].get("visibility") != "private"


@pytest.mark.parametrize("status", [401, 403, 500])
def test_what_the_hub_refuses_is_one_error_without_the_token(one, token, status):
    with Hub(status) as hub, pytest.raises(files.UserError, match="me/model: the hub could not be written to") as raised:
        export.push(one, "me/model", say=silent, api=hub.api)
    assert TOKEN not in str(raised.value) and raised.value.__cause__ is None


def test_a_hub_that_is_not_there_is_one_error(one, token):
    with Hub() as hub:
        api = hub.api
    with pytest.raises(files.UserError, match="the hub could not be written to"):
        export.push(one, "me/model", say=silent, api=api)


@pytest.mark.parametrize("name", ["model", "a/b/c", "me/mo del", "me/--", ""])
def test_a_bad_repository_name_is_refused(one, name):
    with pytest.raises(files.UserError, match="not a repository name|expected OWNER/NAME"):
        export.push(one, name, dry_run=True, say=silent)


# --- what can go wrong ---


def test_what_is_not_there_or_is_of_another_model_is_named(one):
    run = one.run
    with pytest.raises(files.UserError, match=r"no trained adapter of 'plain'. Trained there: reasoned-33 \(seed 1\)"):
        export.find(run, "plain")
    with pytest.raises(files.UserError, match="not trained with seed 7. Seeds there: 1"):
        export.find(run, "reasoned-33", 7)
    other = runtime.Run(run.folder, profiles.choose("tiny-phi"), run.study)
    with pytest.raises(files.UserError, match="made for 'tiny-.*', not for tiny-phi"):
        export.find(other, "reasoned-33")
    (one.adapter / "adapter_config.json").unlink()
    with pytest.raises(files.UserError, match="adapter_config.json is missing"):
        export.find(run, "reasoned-33")
    with pytest.raises(files.UserError, match="nothing: no such run"):
        export.open_run("nothing")


def test_a_folder_that_is_there_is_left_alone(one, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(files.UserError, match="is there already"):
        export.save(one, tmp_path / "out", say=silent)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_an_unknown_dtype_is_refused_before_anything_is_written(one, tmp_path):
    with pytest.raises(files.UserError, match="dtype: expected one of auto, float16, bfloat16, float32, found 'fp16'"):
        export.save(one, tmp_path / "place" / "out", "fp16", say=silent)
    assert not (tmp_path / "place").exists()


def test_a_full_disk_leaves_nothing_behind(one, tmp_path, monkeypatch):
    from transformers import PreTrainedModel

    def full(self, folder, **_):
        (Path(folder) / "model.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(files.UserError, match="out: the disk is full"):
        export.save(one, tmp_path / "place" / "out", say=silent)
    assert not list((tmp_path / "place").iterdir())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Traceback\nOSError: [Errno 28] No space left on device\n", "the disk is full"),
        ("NotImplementedError: BPE pre-tokenizer was not recognized - update get_vocab_base_pre()\n", "does not know the tokenizer"),
        ("ModuleNotFoundError: No module named 'sentencepiece'\n", "pip install sentencepiece"),
        ("Traceback\nKeyError: 'x'\n\n", "converter failed: KeyError: 'x'"),
    ],
)
def test_a_converter_that_fails_says_why_and_leaves_nothing(one, tmp_path, monkeypatch, words, expected):
    script = "import sys; sys.stderr.write(%r); sys.exit(1)" % words
    (tmp_path / "converter").mkdir()
    (tmp_path / "converter" / "convert_hf_to_gguf.py").write_text(script)
    monkeypatch.setattr(gguf_export, "converter", lambda say=print: tmp_path / "converter")
    with pytest.raises(files.UserError, match=expected):
        export.save(one, tmp_path / "place" / "out", gguf=True, say=silent)
    assert not list((tmp_path / "place").iterdir())


def test_the_command_exports_and_says_what_lies_there(one, tmp_path):
    environment = {**os.environ, "BONSAI_NO_VENV": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "helpers", "export", "reasoned-33", "--run", "tiny", "--dtype", "float16"]
    done = subprocess.run(command, cwd=files.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = one.run.path("exports", "reasoned-33-seed1")
    assert f"{folder}\n" in done.stdout and f"{(folder / 'model.safetensors').stat().st_size:,}  model.safetensors" in done.stdout
    done = subprocess.run(command, cwd=files.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "is there already" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["plain"], "no trained adapter of 'plain'"),
        (["reasoned-33", "--run", "../x"], "run name '../x'"),
        (["reasoned-33", "--run", "none"], "none: no such run"),
        (["reasoned-33", "--push", "me/model", "--gguf"], "--push uploads the adapter"),
        (["reasoned-33", "--dry-run"], "belong to --push"),
    ],
)
def test_what_the_user_can_mend_is_one_line(one, monkeypatch, capsys, options, words):
    monkeypatch.setattr(bootstrap, "enter", lambda needs, argv: None)
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{stream}.reconfigure", lambda **_: None, raising=False)
    assert cli.main(["export", *(["--run", "tiny"] if "--run" not in options else []), *options]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and words in err and err.count("\n") == 1


# --- llama.cpp ---


def vocabulary(tokenizer, path: Path) -> Path:
    """The tiny models' tokenizer as GGUF: byte-level BPE with GPT-2's pre-tokenisation, which the converter knows by name only."""
    from gguf import GGUFWriter, TokenType

    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    special = set(tokenizer.get_added_vocab())
    writer = GGUFWriter(path, "llama")
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda pair: pair[1])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def in_llama(file: Path):
    """The model in llama.cpp with cache and sums in fp32, on one thread; skips where llama_cpp is not installed."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama_cpp is not installed: python -m pip install -r tests/requirements-llama.txt")
    return llama_cpp.Llama(str(file), n_ctx=512, n_threads=1, n_threads_batch=1, logits_all=True, verbose=False, type_k=0, type_v=0, flash_attn=False)


def compare(llama, model, tokenizer, asked: list[str], budget: int) -> list[tuple[float, float]]:
    """Greedy decoding of each prompt on both sides, from the same token ids.

    For each prompt the margin of transformers' choice (logits) where the two part, 0 where they do not, and the largest difference of a logit
    along transformers' tokens.
    """
    import numpy as np
    import torch

    found = []
    for text in asked:
        ids = prompts.encode_prompt(tokenizer, text)
        assert tokenizer(text)["input_ids"] == ids == llama.tokenize(text.encode(), add_bos=True, special=True)
        rows = torch.tensor([ids])
        with torch.no_grad():
            written = model.generate(input_ids=rows, attention_mask=torch.ones_like(rows), max_new_tokens=budget, do_sample=False)[0].tolist()
            logits = model(torch.tensor([written])).logits[0, len(ids) - 1 : -1].float()
        llama.reset()
        llama.eval(written[:-1])
        theirs = torch.from_numpy(np.array(llama.scores[len(ids) - 1 : len(written) - 1]))
        own = []
        for token in llama.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
            own.append(token)
            if token in ends(model) or len(own) == budget:
                break
        margin, ours = 0.0, written[len(ids) :]
        if own != ours:
            at = next(i for i, (a, b) in enumerate(zip(own, ours, strict=False)) if a != b)
            margin = float(logits[at, ours[at]] - logits[at, own[at]])
        found.append((margin, float((theirs - logits).abs().max())))
    return found


# What llama.cpp takes for granted of a family: Gemma 3's attention is scaled by the width of a head, phi-2's inner layer is four times the width.
SIZES = {
    "tiny": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 512},
    "tiny-phi": {"intermediate_size": 256, "hidden_act": "gelu_new"},
    "tiny-phi3": {},
}


def sized(name: str, folder: Path) -> export.Trained:
    """A trained arm of the family on a random base of such sizes, with weights large enough for answers to differ."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    template = profiles.choose(name)
    source = Path(models.local_folder(template))
    base = folder / "base"
    base.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / file, base)
    config = AutoConfig.from_pretrained(source)
    for key, value in SIZES[name].items() | {("initializer_range", 0.2)}:
        setattr(config, key, value)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    profile = dataclasses.replace(template, model=dataclasses.replace(template.model, source="hub", identifier=str(base)))
    run = runtime.Run(folder / "run", profile, studies.load("quick"))
    make_adapter(profile, run.path("arms", "reasoned-33", "seed1", "adapter"))
    return export.find(run, "reasoned-33")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_gguf_of_each_family_has_the_weights_and_says_the_same_in_llama_cpp(family, tmp_path, questions, dtype):
    """The tokenizers are the tests' own, which the converter refuses to guess: they are given to it as a GGUF file."""
    import numpy as np
    from gguf import GGUFReader

    trained = sized(family, tmp_path)
    folder = export.save(trained, tmp_path / "out", dtype, say=silent)
    saved, tokenizer = load(folder)
    file = tmp_path / f"x-{gguf_export.TYPES[dtype]}.gguf"
    gguf_export.convert(folder, file, dtype, "a-name", vocabulary(tokenizer, tmp_path / "vocabulary.gguf"), silent)
    read = GGUFReader(file)
    assert read.fields["general.name"].contents() == "a-name" and str(tmp_path).encode() not in file.read_bytes()
    embedding = next(t.data for t in read.tensors if t.name == "token_embd.weight")
    assert np.array_equal(embedding, saved.get_input_embeddings().weight.detach().numpy()) and embedding.dtype == dtype
    model = saved.float()
    found = compare(in_llama(file), model, tokenizer, texts(trained.run.profile, questions[:20]), 12)
    spread = float(model(**tokenizer("水", return_tensors="pt")).logits.std())
    print(f"{family} {dtype}: {sum(m == 0 for m, _ in found)} of 20; largest difference {max(e for _, e in found) / spread:.5f} of the logits' spread")
    # llama.cpp looks GELU up in a table of half precision, and multiplies weights in f16 by activations rounded to f16.
    assert max(error for _, error in found) < 0.05 * spread, found
    assert all(margin <= 2 * error for margin, error in found), found
    assert sum(margin == 0 for margin, _ in found) >= 18, found


@pytest.mark.slow
def test_a_tokenizer_that_the_converter_does_not_know_is_said_and_nothing_is_left(runs, tmp_path):
    with pytest.raises(files.UserError, match="converter does not know the tokenizer of this model"):
        export.save(runs("tiny-phi"), tmp_path / "place" / "out", gguf=True, say=silent)
    assert not list((tmp_path / "place").iterdir())


@pytest.mark.slow
def test_twenty_prompts_of_the_embedded_model_come_out_of_llama_cpp_as_out_of_transformers(tmp_path, questions):
    """Gemma 3 270M, exported as fp32 GGUF; with the adapter in the folder BONSAI_ADAPTER, or a small random one.

    Where the two part, transformers' own choice is a tie within what llama.cpp's arithmetic moves a logit by.
    """
    pytest.importorskip("llama_cpp", reason="llama_cpp is not installed: python -m pip install -r tests/requirements-llama.txt")
    run = runtime.Run(tmp_path / "run", profiles.choose("gemma3-270m"), studies.load("quick"))
    target = run.path("arms", "reasoned-33", "seed0", "adapter")
    if os.environ.get("BONSAI_ADAPTER"):
        shutil.copytree(os.environ["BONSAI_ADAPTER"], target)
    else:
        make_adapter(run.profile, target, std=0.002)
    folder = export.save(export.find(run, "reasoned-33"), tmp_path / "out", "float32", gguf=True, say=silent)
    saved, tokenizer = load(folder)
    (file,) = folder.glob("*.gguf")
    test = [q for q in questions if q.split == "test"]
    asked = texts(run.profile, test[:: len(test) // 20][:20])
    found = compare(in_llama(file), saved, tokenizer, asked, 48)
    agreed, error = sum(margin == 0 for margin, _ in found), max(error for _, error in found)
    print(f"{agreed} of {len(found)} agree token for token; margins where they part: {[m for m, _ in found if m]}; largest difference of a logit {error:.4f}")
    assert len(found) == 20 and agreed >= 18, found
    assert error < 0.2 and all(margin <= 2 * e for margin, e in found), found


def test_the_test_s_llama_cpp_is_the_converter_s():
    text = (files.ROOT / "tests" / "requirements-llama.txt").read_text(encoding="utf-8")
    assert re.findall(r"^llama-cpp-python==([\d.]+)", text, re.MULTILINE) == [gguf_export.VERSION]
