"""Profiles are found by name, precision follows compute capability, and a run folder keeps what it was begun with."""

from __future__ import annotations

import dataclasses
import json
import pkgutil
import subprocess
import sys

import pytest

import helpers
from helpers import profiles, runtime
from helpers.files import ROOT, UserError
from helpers.profiles import PROFILES, choose
from helpers.runtime import Device, open_run


def one_line(error: pytest.ExceptionInfo) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_an_unknown_profile_is_told_the_known_ones():
    with pytest.raises(UserError) as caught:
        choose("phi-4")
    message = one_line(caught)
    assert "'phi-4'" in message and all(name in message for name in ("auto", *PROFILES))


def test_an_unknown_recipe_field_is_told_the_known_ones():
    with pytest.raises(UserError) as caught:
        choose("tiny").replace(rank=8, learning_rat=1)
    message = one_line(caught)
    assert "'learning_rat'" in message and all(f.name in message for f in dataclasses.fields(profiles.Recipe))


def test_auto_follows_the_device():
    assert choose().name == choose("auto", cuda=False).name == "gemma3-270m"
    assert choose("auto", cuda=True).name == "phi-2"
    assert choose("tiny", cuda=True).name == "tiny", "a name that was given is kept"


def test_replace_changes_one_field_of_a_copy():
    before = choose("tiny")
    after = before.replace(rank=2)
    assert after.recipe == dataclasses.replace(before.recipe, rank=2) and after.model == before.model
    assert choose("tiny").recipe.rank == before.recipe.rank != 2


def test_a_model_of_ones_own_keeps_the_recipe():
    mine = choose("phi-2", model_id="me/my-phi/")
    assert (mine.name, mine.model.source, mine.model.identifier) == ("my-phi", "hub", "me/my-phi/")
    assert mine.recipe == choose("phi-2").recipe and mine.model.lora_targets == choose("phi-2").model.lora_targets


def test_every_profile_is_whole():
    from helpers.prompts import STYLES

    for name, profile in PROFILES.items():
        assert (
            profile.name == name
            and profile.model.prompt_style in STYLES
            and profile.model.lora_targets
            and profile.model.license
        )
        assert 0 <= profile.recipe.reasoning_fraction <= 1


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((7, 0), "float16"),
        ((7, 5), "float16"),
        ((8, 0), "bfloat16"),
        ((8, 9), "bfloat16"),
        ((9, 0), "bfloat16"),
        ((12, 0), "bfloat16"),
    ],
)
def test_precision_follows_capability(capability, expected):
    assert Device("cuda", "a GPU", capability).dtype_name == expected


def test_a_t4_computes_in_float16_though_torch_says_it_has_bf16(monkeypatch):
    import torch

    for name, value in (
        ("is_available", True),
        ("get_device_name", "Tesla T4"),
        ("get_device_capability", (7, 5)),
        ("is_bf16_supported", True),
    ):
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    here = runtime.device()
    assert (here.kind, here.name, here.dtype_name) == ("cuda", "Tesla T4", "float16")
    assert here.dtype is torch.float16
    assert runtime.describe()["profile auto picks"] == "phi-2"


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx2 avx512_bf16", "bfloat16"), ("avx2 avx512f", "float32"), (None, "float32")]
)
def test_a_cpu_without_bf16_instructions_stays_in_float32(tmp_path, monkeypatch, flags, expected):
    cpuinfo = tmp_path / "cpuinfo"
    if flags:
        cpuinfo.write_text(f"flags\t\t: fpu {flags} sse\n")
    monkeypatch.setattr(runtime, "Path", lambda name: cpuinfo)
    assert Device("cpu", "a CPU").dtype_name == expected


@pytest.mark.parametrize(
    ("variable", "expected"),
    [("COLAB_RELEASE_TAG", "colab"), ("KAGGLE_KERNEL_RUN_TYPE", "kaggle"), ("NOTHING", "terminal")],
)
def test_where(monkeypatch, variable, expected):
    for name in ("COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("ipykernel", "google.colab"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setenv(variable, "x")
    assert runtime.where() == expected


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\b", "/etc", ".hidden", "-rf", "a b", "a\n", "日本", "a" * 65, "a\0"]
)
def test_bad_names_make_no_folder(runs, name):
    with pytest.raises(UserError) as caught:
        open_run(name, "tiny")
    assert repr(name) in one_line(caught) and "letters, digits" in str(caught.value)
    assert not list(runs.iterdir())


@pytest.mark.parametrize("name", ["a", "0", "phi-2_seed.1", "A" * 64])
def test_good_names(runs, name):
    run = open_run(name, "tiny")
    assert run.folder == runs / name and run.path("data", "x.jsonl") == runs / name / "data" / "x.jsonl"
    assert run.recipe == run.profile.recipe


def test_auto_takes_up_the_profile_of_the_folder(runs):
    begun = open_run("mine", "tiny-phi", rank=2)
    assert open_run("mine", "tiny-phi", rank=2) == begun
    assert open_run("mine", rank=2) == begun
    assert open_run("new").profile.name == choose("auto", runtime.device().kind == "cuda").name


def test_a_folder_begun_with_ones_own_model_opens_again(runs, monkeypatch):
    begun = open_run("mine", model_id="me/my-model")
    assert open_run("mine", model_id="me/my-model") == open_run("mine") == begun
    # On another machine `auto` would pick another profile; the folder keeps its own.
    monkeypatch.setattr(runtime, "device", lambda: Device("cuda", "a GPU", (8, 0)))
    assert open_run("mine", model_id="me/my-model") == open_run("mine") == begun


@pytest.mark.parametrize(
    ("again", "words"),
    [
        ({"profile": "tiny"}, ["tiny-phi, rank=2", "not tiny, rank=2"]),
        ({"rank": 4}, ["tiny-phi, rank=2", "not tiny-phi, rank=4"]),
        ({"seed": 1}, ["not tiny-phi, rank=2, seed=1"]),
        ({"model_id": "me/my-model"}, ["begun with tiny-phi, rank=2,", "me/my-model"]),
    ],
)
def test_other_settings_are_refused_with_the_way_out(runs, again, words):
    open_run("mine", "tiny-phi", rank=2)
    before = (runs / "mine" / "run.json").read_bytes()
    with pytest.raises(UserError) as caught:
        open_run(**({"name": "mine", "profile": "tiny-phi", "rank": 2} | again))
    message = one_line(caught)
    assert message.startswith(str(runs / "mine")) and "Choose another RUN name, or remove that folder" in message
    assert all(word in message for word in words), message
    assert (runs / "mine" / "run.json").read_bytes() == before


def test_settings_that_do_not_exist_make_no_folder(runs):
    for wrong in ({"profile": "phi-4"}, {"profile": "tiny", "ranks": 2}):
        with pytest.raises(UserError):
            open_run("mine", **wrong)
    assert not list(runs.iterdir())


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"profile": "tiny"}'])
def test_a_damaged_run_folder_is_named(runs, content):
    (runs / "mine").mkdir()
    (runs / "mine" / "run.json").write_text(content)
    with pytest.raises(UserError, match=r"mine.run.json: not "):
        open_run("mine", "tiny")


def test_drive_is_for_colab_alone(runs):
    with pytest.raises(UserError, match="untick USE_DRIVE"):
        open_run("mine", "tiny", drive=True)


HEAVY = (
    "torch",
    "transformers",
    "pandas",
    "matplotlib",
    "scipy",
    "numpy",
    "sacrebleu",
    "datasets",
    "peft",
    "trl",
    "ipywidgets",
    "IPython",
)
PROBE = """
import importlib, json, sys, time
heavy, found = sys.argv[1].split(","), {}
for name in sys.argv[2:]:
    before, began = set(sys.modules), time.process_time()
    importlib.import_module("helpers." + name)
    found[name] = [time.process_time() - began, sorted(set(heavy) & (set(sys.modules) - before))]
print(json.dumps(found))
"""


def test_importing_a_helper_is_light():
    names = sorted(m.name for m in pkgutil.iter_modules(helpers.__path__) if m.name != "__main__")
    assert len(names) > 15
    result = subprocess.run(
        [sys.executable, "-c", PROBE, ",".join(HEAVY), *names], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1, "nothing is printed at import"
    found = json.loads(result.stdout)
    assert {name: heavy for name, (_, heavy) in found.items() if heavy} == {}
    assert sum(seconds for seconds, _ in found.values()) < 1.5, found
