"""The main job, twice over: all notebooks with a tiny random model, and the real default run with its claims."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import pytest

from helpers import files, notebooks

pytestmark = pytest.mark.slow


def run(folder, *options):
    environment = {**os.environ, "BONSAI_NO_VENV": "1", "BONSAI_RUNS": str(folder), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "helpers", "run", *options]
    done = subprocess.run(command, cwd=files.ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def check_report(folder):
    for name in ("report.md", "details.md", "report.html", "headline.json", "results.json", "training_log.csv"):
        assert (folder / "report" / name).stat().st_size > 100, name
    page = (folder / "report" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)="(?!data:|#)', page), "the report opens offline"
    assert len(list((folder / "report" / "figures").glob("*.png"))) >= 6


def check_notebooks(folder):
    for path in notebooks.listed():
        executed = notebooks.load(folder / "notebooks" / path.name)
        for cell in notebooks.code_cells(executed):
            assert not any(o["output_type"] == "error" for o in cell["outputs"])


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    run(folder, "--run", "tiny", "--profile", "tiny")
    return folder


def test_all_notebooks_run_with_a_tiny_model(tiny_run):
    check_notebooks(tiny_run / "tiny")
    check_report(tiny_run / "tiny")


def test_a_second_run_skips_what_is_finished_and_says_so(tiny_run):
    marker = tiny_run / "tiny" / "arms" / "plain" / "seed0" / "adapter" / "adapter_model.safetensors"
    before = marker.stat().st_mtime_ns
    assert run(tiny_run, "--run", "tiny", "--profile", "tiny").count("up to date, kept") == 6
    # Notebook 03 alone is taken for not executed.
    state = tiny_run / "tiny" / "notebooks" / "state.json"
    held = files.read_json(state)
    files.write_json(state, {name: kept for name, kept in held.items() if not name.startswith("03")})
    assert run(tiny_run, "--run", "tiny", "--profile", "tiny").count("up to date, kept") == 5
    assert marker.stat().st_mtime_ns == before, "a trained arm is not trained again"


def test_one_notebook_alone_in_a_fresh_place_makes_what_it_needs(tmp_path):
    """Notebook 06 by itself, as in a fresh Colab VM: it rebuilds data, arms and predictions, and says which."""
    import papermill

    os.environ["BONSAI_RUNS"] = str(tmp_path)
    try:
        out = tmp_path / "06.ipynb"
        papermill.execute_notebook(
            str(notebooks.listed()[5]), str(out), parameters={"PROFILE": "tiny", "RUN": "alone"}, cwd=str(files.ROOT / "notebooks"),
            kernel_name="python3", progress_bar=False,
        )  # fmt: skip
    finally:
        del os.environ["BONSAI_RUNS"]
    printed = out.read_text(encoding="utf-8")
    for words in ("Curated data: none", "Rationales: none", "Arm plain:", "Predictions of base:"):
        assert words in printed
    check_report(tmp_path / "alone")


def test_the_real_default_run_learns_within_its_limits(tmp_path):
    """Real Gemma 3 270M in NF4, real Tatoeba pairs: the tuned model translates better than the base's best prompt."""
    from helpers import corpora, models, profiles

    corpora.fetch(corpora.TATOEBA)
    models.local_folder(profiles.choose("gemma3-270m"))
    begun = time.monotonic()
    printed = run(tmp_path, "--run", "real")
    minutes = (time.monotonic() - begun) / 60
    print(printed[-2500:])
    folder = tmp_path / "real"
    check_notebooks(folder)
    check_report(folder)
    results = json.loads((folder / "report" / "results.json").read_text(encoding="utf-8"))
    for row in results["translation_gain"]:
        assert row["n"] >= 300 and row["low"] > 0, row
    by_stage = {(r["arm"], r["stage"]): r for r in results["stages"]}
    assert {s for _, s in by_stage} == {"S2", "S3", "S4", "S5"} and {a for a, _ in by_stage} == {"base", "plain", "reasoned-33"}
    assert by_stage["plain", "S4"]["well_formed"] > 90 and by_stage["plain", "S4"]["truncated"] < 5
    memory = float(re.search(r"peak memory +([\d.]+) GB", printed)[1])
    assert memory < 10
    # The goal is 20 minutes; the margin is for other and shared machines (17 to 18 minutes were measured on 2 cores of an AMD EPYC without AMX, 27 before training and generation were made faster).
    assert minutes < 45
