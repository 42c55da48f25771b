"""Study files: the two that ship, what a bad one says, the order of work; the plan and the resumable runner."""

from __future__ import annotations

import dataclasses
import gzip
import json
import re
import shutil

import pytest

from helpers import corpora, evaluation, experiment, files, pipeline, profiles, report, results, runtime, studies
from helpers.__main__ import main


def write(folder, text):
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_studies():
    quick, full = studies.load("quick"), studies.load("full")
    assert quick.jobs == (("plain", 0), ("reasoned-33", 0)) and quick.recipe == ()
    assert studies.is_arm("explained-33") and not studies.is_arm("explained-0") and not studies.reasons("explained-33")
    six = {"plain", "reasoned-33", "reasoned-100", "shuffled-33", "plain-token-matched"}
    assert all(len(dict(full.seeds)[arm]) == 3 for arm in six), "with base, the six arms of DESIGN"
    assert {"reasoned-20", "reasoned-67"} <= set(full.arms), "dose-response"
    tested = sum(r.split == "test" for r in corpora.questions()) + dict(full.recipe)["control_test"]
    assert tested >= 1000 and dict(full.recipe)["test_questions"] == 0


def test_all_arms_of_a_seed_come_before_the_next_seed(tmp_path):
    study = studies.load(write(tmp_path, "[seeds]\nplain = [1, 0]\nreasoned-33 = [0, 1]\nreasoned-20 = [1]\n"))
    assert study.jobs == (("plain", 0), ("reasoned-33", 0), ("plain", 1), ("reasoned-33", 1), ("reasoned-20", 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seeds = [\nplain", "not valid TOML.*line 2"),
        ("[seeds]\nreasoned-33 = [0]", "seeds.*plain among them"),
        ("[seeds]\nplain = 0", "plain: expected a list of whole numbers"),
        ("[seeds]\nplain = [true]", "plain: expected a list of whole numbers"),
        ("[seeds]\nplain = [0, 0]", "plain: expected each seed once"),
        ("[seeds]\nplain = [0]\nreasoned-0 = [0]", "'reasoned-0'.*reasoned-P"),
        ("[seeds]\nplain = [0]\n'../x' = [0]", "expected plain, reasoned-P"),
        ("[seeds]\nplain = [0]\nreasoned-33 = [1]", "reasoned-33: expected seeds that plain has"),
        ("sed = 1\n[seeds]\nplain = [0]", "'sed': expected only"),
        ("profile = 'phi-9'\n[seeds]\nplain = [0]", "profile: expected auto or one of"),
        ("[seeds]\nplain = [0]\n[recipe]\nlearn_rate = 1", "'learn_rate': expected a field"),
        ("[seeds]\nplain = [0]\n[recipe]\nseed = 1", "'seed': expected a field of the recipe other than seed"),
        ("[seeds]\nplain = [0]\n[recipe]\nrank = 'big'", "rank: expected a value like 16"),
        ("[seeds]\nplain = [0]\n[recipe]\nrank = -1", "rank: expected a value that is not negative"),
    ],
)
def test_a_bad_study_file_is_named_with_the_field(tmp_path, text, words):
    with pytest.raises(files.UserError, match=f"mine.toml.*{words}"):
        studies.load(write(tmp_path, text))


def test_an_unknown_study_names_the_known(tmp_path):
    with pytest.raises(files.UserError, match="Known: full, quick"):
        studies.load("huge")


def test_a_folder_keeps_its_study(tmp_path, monkeypatch):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    runtime.open_run("r", "tiny")
    with pytest.raises(files.UserError, match="begun with tiny, not tiny, study full"):
        runtime.open_run("r", "tiny", study="full")


STUDY = """about = "A tiny one."
profile = "tiny"
[seeds]
plain = [0, 1]
reasoned-33 = [0, 1]
reasoned-100 = [0, 1]
[recipe]
control_train = 8
control_dev = 2
control_test = 6
train_pairs = 16
dev_pairs = 2
test_pairs = 4
replay_pairs = 8
"""


@pytest.fixture
def run(tmp_path, monkeypatch, pairs):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    many = [p.replace(id=f"{p.id}-{n}", ja=f"{n}番目の話。{p.ja}", en=f"Story {n}. {p.en}") for n in range(6) for p in pairs]
    monkeypatch.setattr(corpora, "tatoeba", lambda say=print: many)
    return runtime.open_run("t", study=str(write(tmp_path, STUDY)))


def test_the_plan_says_what_will_run_before_anything_does(run):
    text = experiment.describe(run, experiment.plan(run))
    lines = text.splitlines()
    assert [line.split()[0] for line in lines if "to do" in line] == ["base", *(a for _ in (0, 1) for a in ("plain", "reasoned-33", "reasoned-100"))]
    assert "Left: about" in text and "memory" in text
    assert not run.path("arms").exists() and not run.path("data").exists()


def test_a_look_at_the_plan_begins_no_run_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("BONSAI_NO_VENV", "1")
    for profile in ("tiny", "tiny-phi"):
        assert main(["study", "quick", "--plan", "--profile", profile]) == 0
        assert f"Study quick with {profile}:" in capsys.readouterr().out
    assert main(["study", "quick", "--plan", "--profile", "tiny", "--keep", "there"]) == 0
    assert "What lies in there is not counted yet" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_a_damaged_run_beside_this_one_does_not_stop_its_plan(run):
    files.write_text(run.folder.parent / "other" / "run.json", "{")
    files.write_text(run.folder.parent / "older" / "run.json", json.dumps({"profile": "tiny"}))
    files.write_text(run.folder.parent / "older" / "arms" / "plain" / "seed0" / "log.jsonl", "no row\n")
    files.write_text(run.folder.parent / "older" / "predictions" / "base" / "done.json", "{")
    assert "Left: about" in experiment.describe(run, experiment.plan(run))


@pytest.mark.parametrize(("name", "billions"), [("llama-3-8b", 8.03), ("qwen2.5-1.5b", 1.54), ("phi-2", 2.78), ("gemma3-270m", 0.268)])
def test_the_estimate_without_a_log_knows_the_size_of_the_model(run, name, billions):
    assert experiment._billions(dataclasses.replace(run, profile=profiles.choose(name))) == pytest.approx(billions, rel=0.01)


@pytest.mark.slow
def test_a_study_runs_resumes_and_reports(run, tmp_path):
    finished = []

    def stop_after_two(system):
        finished.append(system.label)
        if len(finished) == 2:
            early = results.results(run, pipeline.load(run))
            page = report.write(run, early, report.figures(run, early)).joinpath("report.md").read_text(encoding="utf-8")
            assert "5 of the study's are still to come" in page and "No arm with Reasoning was trained" in page
        if len(finished) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.execute(run, done=stop_after_two, kept=tmp_path / "kept")
    assert finished == ["base", "plain seed 0", "reasoned-33 seed 0"]
    partial = results.results(run, pipeline.load(run))
    assert {r["arm"] for r in partial.stages} == {"base", "plain", "reasoned-33"}
    assert "still to come" in report.write(run, partial, report.figures(run, partial)).joinpath("report.md").read_text(encoding="utf-8")

    said = []
    data = experiment.execute(run, say=said.append, kept=tmp_path / "kept")
    assert sum("found in the run folder" in s for s in said) == 3 and sum("steps" in s for s in said) == 4, "what is predicted is not trained again"
    assert all(job.trained and job.predicted for job in experiment.plan(run))
    other = dataclasses.replace(run, profile=run.profile.replace(learning_rate=1e-4))
    assert not any(job.predicted or (job.trained and job.arm != "base") for job in experiment.plan(other)), "made with another learning rate"
    assert not evaluation.stale(run, data) and len(evaluation.stale(other, data)) == 7
    found = results.results(run, data)
    n = {s: sum(r["set"] == s for r in found.stages) for s in ("all", "authored", "control")}
    assert all(n.values())
    uneven = dataclasses.replace(found, by_seed=[r for r in found.by_seed if (r["arm"], r["seed"]) != ("reasoned-100", 1)])
    limits = [next(b[1] for b in report._blocks(run, r, {}) if b[0] == "p" and "intervals cover" in b[1]) for r in (found, uneven)]
    assert ["between 1 and 2 of them" in text for text in limits] == [False, True]
    stages = {(r["arm"], r["stage"], r["set"], r["decoding"]): r for r in found.stages}
    assert stages["reasoned-33", "S4", "all", "asked"]["n"] == 22 and stages["reasoned-33", "S4", "all", "asked"]["reasoned"] == 100
    assert ("plain", "S4", "all", "asked") not in stages and stages["plain", "S5", "authored", "free"]["seeds"] == 2
    assert {(r["a"], r["set"]) for r in found.paired if r["b"] == "plain" and r["stage"] == "S4"} == {
        (a, s) for a in ("reasoned-33", "reasoned-100") for s in ("all", "authored", "control")
    }
    assert all(len(r["by_seed"]) == 2 for r in found.paired)
    assert sorted({r["percent"] for r in found.dose}) == [0, 33, 100]

    folder = report.write(run, found, report.figures(run, found))
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert "still to come" not in page and "dose.png" in (folder / "details.md").read_text(encoding="utf-8")
    assert sum(page.count(f"| {s} |") for s in ("confirmed", "refuted", "inconclusive")) == 3

    experiment.keep_report(run, folder, tmp_path / "kept")
    assert {p.name for p in (tmp_path / "kept").iterdir() if p.is_file()} == {"report.md", "details.md", "headline.json", "results.json"}
    shown = re.findall(r"\((figures/[^)]+)\)", page + (folder / "details.md").read_text(encoding="utf-8"))
    assert len(shown) >= 7 and all((tmp_path / "kept" / name).exists() for name in shown)
    kept = tmp_path / "kept" / "reasoned-33" / "seed0"
    assert {p.name for p in kept.iterdir()} == {"questions.jsonl.gz", "translation.jsonl.gz", "log.jsonl", "done.json", "predictions.json"}
    system = next(s for s in evaluation.systems(run) if s.label == "reasoned-33 seed 0")
    assert gzip.decompress((kept / "questions.jsonl.gz").read_bytes()) == (system.folder / "questions.jsonl").read_bytes()
    first = json.loads(gzip.decompress((kept / "questions.jsonl.gz").read_bytes()).splitlines()[0])
    assert {"id", "stage", "asked", "answer", "truncated"} <= first.keys()

    shutil.rmtree(run.path("arms"))
    said.clear()
    experiment.execute(run, say=said.append, kept=tmp_path / "kept")
    assert not any("steps" in s for s in said) and {p.name for p in kept.iterdir()} >= {"log.jsonl", "done.json"}, "adapters are not needed any more"
    with pytest.raises(files.UserError, match="log.jsonl: is missing"):
        experiment.keep(run, data, system, tmp_path / "elsewhere")
    shutil.rmtree(run.path("predictions"))
    assert all(not job.predicted for job in experiment.plan(run))
    said.clear()
    experiment.execute(run, say=said.append, kept=tmp_path / "kept")
    assert sum("taken from" in s for s in said) == 7 and not any("steps" in s for s in said), "nothing is trained again"
    assert results.results(run, data) == found and pipeline.training_logs(run).keys() == set(run.study.jobs)
    assert all(job.trained and job.predicted for job in experiment.plan(run))
    shutil.rmtree(run.path("predictions"))
    assert not any(experiment.restore(other, data, s, tmp_path / "kept") for s in evaluation.systems(other)), "made with another learning rate"

    # Those of older code are gone on with, and a report can be written of them; it says which they are.
    for marker in (tmp_path / "kept").rglob("predictions.json"):
        made = json.loads(marker.read_text())
        marker.write_text(json.dumps(made | {"made_from": [made["made_from"][0], "older", *made["made_from"][2:]]}))
    assert not any(experiment.restore(run, data, s, tmp_path / "kept") for s in evaluation.systems(run))
    assert not any(experiment.restore(other, data, s, tmp_path / "kept", older=True) for s in evaluation.systems(other)), "other settings"
    data = experiment.restore_all(run, tmp_path / "kept", said.append)
    assert not evaluation.stale(run, data) and not any(job.predicted for job in experiment.plan(run))
    assert all(job.trained and job.predicted for job in experiment.plan(run, tmp_path / "kept"))
    said.clear()
    experiment.execute(run, say=said.append, kept=tmp_path / "kept")
    assert sum("taken from" in s for s in said) == 7 and not any("steps" in s for s in said), "nothing is trained again"
    again = results.results(run, data)
    assert again.older == [s.label for s in evaluation.systems(run)] and dataclasses.replace(again, older=[]) == found
    page = report.write(run, again, report.figures(run, again)).joinpath("report.md").read_text(encoding="utf-8")
    assert "Made by an earlier version of the code that trains and decodes, from the same data, model and settings: 7 of 7 systems." in page


@pytest.mark.slow
def test_several_at_once_come_to_the_same_as_one_after_the_other(run, tmp_path, monkeypatch, capfd):
    """Two processes share the arms; where they fail, whoever called does what they left, with the same predictions, byte for byte."""
    few = dataclasses.replace(run, study=dataclasses.replace(run.study, seeds=(("plain", (0, 1)), ("reasoned-33", (0,)))))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    threads, start = [], experiment.subprocess.Popen
    monkeypatch.setattr(experiment.subprocess, "Popen", lambda *a, **k: threads.append(k["env"]["OMP_NUM_THREADS"]) or start(*a, **k))
    said, places = [], [s.folder / "questions.jsonl" for s in evaluation.systems(few)]
    experiment.execute(few, jobs=2, kept=tmp_path / "kept", say=said.append)
    assert "2 at once, of 4 to do." in said and threads == [str(max(1, runtime.cores() // 2))] * 2
    assert sum("found in the run folder" in s for s in said) == 4 and not any("steps" in s for s in said), "nothing was left to the first process"
    assert len(set(re.findall(r"by process (\d+)", capfd.readouterr().out))) == 2
    together = [place.read_bytes() for place in places]
    assert {p.parent.relative_to(tmp_path / "kept").as_posix() for p in (tmp_path / "kept").rglob("questions.jsonl.gz")} == {"base", "plain/seed0", "plain/seed1", "reasoned-33/seed0"}
    shutil.rmtree(few.path("arms"))
    shutil.rmtree(few.path("predictions"))
    monkeypatch.setattr(experiment, "ROOT", tmp_path)  # from where no process finds the program
    experiment.execute(few, jobs=2, say=said.append)
    assert sum("steps" in s for s in said) == 3 and [place.read_bytes() for place in places] == together
    assert any("Some processes ended early (exit codes 1, 1;" in s for s in said)


def test_how_many_at_once_is_what_the_gpu_has_room_for(run, monkeypatch):
    gemma = dataclasses.replace(run, profile=profiles.choose("gemma3-270m"))
    monkeypatch.setattr(experiment, "cores", lambda: 16)
    found = []
    for gib in (0.0, 14.74, 40.0, 80.0):
        monkeypatch.setattr(experiment, "gpu_gib", lambda gib=gib: gib)
        found.append(experiment.at_once(gemma))
    assert found == sorted(found) and found[0] == 1 and found[-1] == experiment.AT_ONCE
    assert experiment.at_once(dataclasses.replace(run, profile=profiles.choose("phi-2"))) == 1, "phi-2 fills it by itself"
    monkeypatch.setattr(experiment, "cores", lambda: 2)
    assert experiment.at_once(gemma) == 1
