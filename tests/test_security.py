"""Nothing in a run folder or on a hub is executed, no name leaves its folder, what a model wrote stays text, keys stay secret.

Elsewhere: hostile workbooks and formulas (test_tables), scripts in data sets (test_sources), the key of an endpoint (test_teachers), widgets in
a real browser (test_browser).
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import venv
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from helpers import corpora, display, evaluation, files, models, pipeline, report, results, runtime, search, studies
from helpers.files import ROOT, UserError
from tests import killing

SOURCES = sorted((ROOT / "helpers").rglob("*.py"))


# Code that is not ours


class Bomb:
    """Executed when it is unpickled: makes the file `mark`."""

    def __init__(self, mark: Path):
        self.mark = str(mark)

    def __reduce__(self):
        return open, (self.mark, "w")


def pickles(mark: Path) -> list[bytes]:
    """The bomb as a plain pickle, and in the archive that torch.save makes."""
    import io

    import torch

    archive = io.BytesIO()
    torch.save({"state": {}, "x": Bomb(mark)}, archive)
    return [pickle.dumps(Bomb(mark)), archive.getvalue()]


def test_the_bomb_goes_off_where_a_pickle_is_loaded(tmp_path):
    import io

    import torch

    mark = tmp_path / "ran"
    for data in pickles(mark):
        try:
            pickle.loads(data)
        except pickle.UnpicklingError:
            torch.load(io.BytesIO(data), weights_only=False)
        assert mark.exists()
        mark.unlink()


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(corpora, "tatoeba", killing.corpus)
    return runtime.open_run("t", "tiny", train_pairs=16, dev_pairs=2, test_pairs=4, replay_pairs=8, questions=12, test_questions=4)


@pytest.mark.slow
def test_no_pickle_of_a_run_folder_is_executed(run, tmp_path):
    """In a checkpoint that training goes on from, and beside or instead of an adapter's weights."""
    data, mark, silent = pipeline.ensure(run, say=lambda line: None), tmp_path / "ran", lambda line: None
    folder = pipeline.train_arm(run, data, "plain", say=silent)
    (folder / "done.json").unlink()
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    step = max(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1])).name
    present = {p.name for p in (folder / step).iterdir() if p.suffix in (".pt", ".pth", ".bin")}
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth"} <= present
    refused = 0
    for name in sorted({*present, "pytorch_model.bin", "adapter_model.bin", "training_args.bin"}):
        for data_of_it in pickles(mark):
            shutil.rmtree(folder)
            shutil.copytree(whole, folder)
            (folder / step / name).write_bytes(data_of_it)
            if name == "adapter_model.bin":
                (folder / step / "adapter_model.safetensors").unlink()
            try:
                pipeline.train_arm(run, data, "plain", say=silent)
            except UserError as error:
                assert "Remove that checkpoint" in str(error) and "\n" not in str(error)
                refused += 1
            assert not mark.exists(), name
    assert refused >= 8, "what training reads is looked at"
    adapter = whole / "adapter"
    for data_of_it in pickles(mark):
        for name in ("adapter_model.bin", "pytorch_model.bin", "training_args.bin"):
            (adapter / name).write_bytes(data_of_it)
        models.load_for_inference(run.profile, adapter, silent)
        assert not mark.exists()
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="adapter_model.safetensors is missing"):
        models.load_for_inference(run.profile, adapter, silent)
    assert not mark.exists()


def hostile_model(folder: Path, mark: Path, tiny, pickled: bool) -> Path:
    """A model folder whose configuration names code of its own, or whose weights are a pickle."""
    shutil.copytree(models.local_folder(tiny), folder)
    code = f"open({str(mark)!r}, 'w')\nfrom transformers import Gemma3TextConfig as Config, Gemma3ForCausalLM as Model, PreTrainedTokenizerFast as Tokenizer\n"
    (folder / "own.py").write_text(code)
    for name, auto in (("config.json", {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}), ("tokenizer_config.json", {"AutoTokenizer": [None, "own.Tokenizer"]})):
        value = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(value | {"auto_map": auto}))
    if pickled:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(pickles(mark)[1])
    return folder


@pytest.mark.parametrize("pickled", [False, True], ids=["code", "pickle"])
def test_a_model_of_somebody_else_executes_nothing(tmp_path, tiny, pickled):
    from helpers import profiles, teachers

    mark = tmp_path / "ran"
    folder = hostile_model(tmp_path / "model", mark, tiny, pickled)
    profile = profiles.choose("tiny", model_id=str(folder))
    for load in (lambda: models.load_tokenizer(profile), lambda: models.load_base(profile), lambda: teachers._load_instruct(str(folder))):
        try:
            load()
        except (UserError, pickle.UnpicklingError):
            pass
        assert not mark.exists()


def calls(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func), {k.arg: k.value for k in node.keywords}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_no_source_executes_what_it_reads(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level}
    assert not imported & {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml"}
    for node, name, keywords in calls(tree):
        where = f"{path.name}, line {node.lineno}: {name}"
        assert name not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "pd.read_pickle") and not name.endswith(".extractall"), where
        for keyword, allowed in (("trust_remote_code", False), ("shell", False), ("weights_only", True), ("allow_pickle", False)):
            if keyword in keywords:
                assert isinstance(keywords[keyword], ast.Constant) and keywords[keyword].value is allowed, f"{where}, {keyword}"
        if re.fullmatch(r"Auto\w+\.from_pretrained", name) and "gguf_file" not in keywords:  # those are checked by SHA-256
            assert "trust_remote_code" in keywords, where


# Names that lead elsewhere

NAMES = ["../x", "..", ".", "/etc/x", "a/../../x", "a/b", "a\\b", "C:x", "", " ", "x\0", "x\n", "-x/..", "~/x", "%2e%2e/x", "x" * 300, "．．/x"]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_runs_arms_and_variants_stay_in_their_folder(tmp_path, monkeypatch, name, run):
    with pytest.raises(UserError, match="Run name"):
        runtime.open_run(name, "tiny")
    quoted = json.dumps(name)
    if "\0" not in name:
        (tmp_path / "s.toml").write_text(f"[seeds]\nplain = [0]\n{quoted} = [0]\n", encoding="utf-8")
        with pytest.raises(UserError, match="s.toml"):
            studies.load(tmp_path / "s.toml")
        for text in (f"[variants.{quoted}]\n", f"arm = {quoted}\n[variants.a]\n"):
            (tmp_path / "v.toml").write_text(text, encoding="utf-8")
            with pytest.raises(UserError, match="v.toml"):
                search.load(tmp_path / "v.toml")
    data = pipeline.Data({"train": []}, {"train": []}, {"files": {}})
    files.write_json(run.path("reasoning", "manifest.json"), {"files": {}, "choice": {"ranking": []}})
    with pytest.raises(UserError, match="Unknown arm"):
        pipeline.arm_questions(run, data, name)


def test_an_archive_is_read_and_never_unpacked(tmp_path):
    """A member is copied by the name that the pinned source says; what else an archive holds is not looked at."""
    import io
    import tarfile

    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("../out.txt", "/tmp/out.txt", "toy/data.txt"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"data"))
        link = tarfile.TarInfo("toy/link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    with corpora._open_member(archive, "toy/data.txt") as f:
        assert f.read() == b"data"
    with pytest.raises(UserError, match="toy/link.txt is not in it or is damaged"), corpora._open_member(archive, "toy/link.txt"):
        pass
    assert os.listdir(tmp_path) == ["a.tar.gz"]


# Text that would be markup

XSS = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "\"><svg onload=alert(1)>", "'><b>", "</td></tr></table><script>alert(1)</script>",
    "<a href=\"javascript:alert(1)\">x</a>", "<iframe src=//evil.example>", "<style>*{display:none}</style>", "<!--", "-->", "<![CDATA[<b>]]>", "&lt;b&gt;", "&#60;b&#62;",
    "<math><mi//xlink:href=\"data:x,<script>alert(4)</script>\">", "<body onload=alert(1)>", "<p style=\"background:url(javascript:alert(1))\">", "\u003cb\u003e",
    "<scr\0ipt>alert(1)</scr\0ipt>", "<ScRiPt>alert(1)</sCrIpT>", "<b\nonclick=alert(1)>", "</textarea><b>", "</title><b>", "<details open ontoggle=alert(1)>",
    "![x](http://evil.example/x.png)", "[x](javascript:alert(1))", "| a | b |", "`<b>`", "$\\href{javascript:alert(1)}{x}$", "＜script＞", "\u202e<b>", "<base href=//evil.example>",
]  # fmt: skip
TAGS = {"html", "meta", "title", "style", "body", "h1", "h2", "p", "strong", "img", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "span", "div", "br", "b", "mark", "pre"}
ATTRIBUTES = {"lang", "charset", "name", "content", "class", "alt", "src", "align", "valign", "style"}


class Seen(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.comments = [], [], "", 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes

    def handle_data(self, data):
        self.text += data

    def handle_comment(self, data):
        self.comments += 1

    unknown_decl = handle_comment


def check_page(page: str, payloads: list[str], times: int) -> None:
    """Only the markup that a page of harmless text has, and each payload as text."""
    seen = Seen(page)
    assert set(seen.tags) <= TAGS and not seen.comments, set(seen.tags) - TAGS
    assert {name for name, _ in seen.attributes} <= ATTRIBUTES, seen.attributes
    for name, value in seen.attributes:
        assert not re.search(r"javascript:|evil|url\(", value or "") and (name != "src" or value.startswith("data:image/png;base64,")), (name, value)
    flat = re.sub(r"\s+", "", seen.text)
    for payload in payloads:
        assert flat.count(re.sub(r"\s+", "", payload)) >= times, payload
    assert seen.tags.count("style") <= 1


def test_display_shows_payloads_as_text():
    rows = [{"question": p, "system": p, "english": p, "reasoning": p, "answer": p, "gold": p, "right": True, "id": i, "stage": p} for i, p in enumerate(XSS)]
    check_page(display.show_sides(rows).data, XSS, 3)
    check_page(display.table(pd.DataFrame({p: [p, 1.5, None] for p in XSS})).data, XSS, 2)
    check_page(display.masked_example([(p, bool(i % 2)) for i, p in enumerate(XSS)]).data, [p.replace("\n", "↵") for p in XSS], 1)
    plain = len(Seen(display.show_sides([r | dict.fromkeys(("question", "system", "english", "reasoning", "answer", "gold"), "x") for r in rows[:1]]).data).tags)
    assert len(Seen(display.show_sides(rows[:1]).data).tags) == plain


def test_progress_shows_payloads_as_text(monkeypatch):
    shown = []
    monkeypatch.setattr(display, "_in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda bundle, **_: shown.append(bundle))
    for payload in XSS:
        display.prediction_view()(payload, 1, 2)
    assert len(shown) == len(XSS)
    for bundle, payload in zip(shown, XSS, strict=True):
        seen = Seen(bundle["text/html"])
        assert seen.tags == ["progress"] and payload.split()[0] in seen.text


def test_blocks_of_the_report_show_payloads_as_text():
    for kind in ("h1", "h2", "p", "verdict"):
        check_page("".join(report._html((kind, p), {}) for p in XSS), XSS, 1)
        assert all(not re.search(r"<[a-zA-Z/!]", report._markdown((kind, p), {})) for p in XSS), "Markdown passes HTML through"
    table = ("table", tuple(XSS), [tuple(XSS)] * 2)
    check_page(report._html(table, {}), XSS, 3)
    page = report._markdown(table, {})
    assert not re.search(r"<[a-zA-Z/!]", page) and "](" not in page, "neither markup, nor a link, nor an image from elsewhere"
    cells = [len(re.split(r"(?<!\\)\|", line)) for line in page.splitlines()]
    assert set(cells) == {len(XSS) + 2}, "no cell breaks the table"


def test_alternative_text_of_a_figure_shows_payloads_as_text(tmp_path):
    (tmp_path / "f.png").write_bytes(b"png")
    for payload in (*XSS, "a `b", "end \\", "two\n\nparagraphs", "](x)"):
        paths = {"f": (tmp_path / "f.png", tmp_path / "f.svg", payload)}
        shown = report._html(("figure", "f", "Caption"), paths)
        assert shown.count("<") == 3 and shown.count('"') == 4, "a paragraph with an image, of two attributes"
        page = report._markdown(("figure", "f", "Caption"), paths)
        assert page.startswith("![Caption. ") and page.endswith("](figures/f.png)") and "\n" not in page and not re.search(r"<[a-zA-Z/!]", page)
        assert page.count("](") == 1 and not re.search(r"(?<!\\)(\\\\)*`", page), "the image ends where it should"


# A study with secrets around it, and payloads in its predictions

SECRETS = {"HF_TOKEN": "hf_sentinelQx7w2Zp9", "OPENAI_API_KEY": "sk-sentinel-4b1d8e", "AWS_SECRET_ACCESS_KEY": "aws-sentinel-77aa", "BONSAI_SENTINEL": "env-sentinel-51c0"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished study, and all that it printed."""
    before = dict(os.environ)
    os.environ |= SECRETS
    home = killing.prepare(tmp_path_factory.mktemp("finished") / "home")
    found = killing.attempt(home)
    assert not found.words, found.words
    yield home, found.output
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the study runs in a fork")
def test_no_secret_of_the_environment_is_written_or_printed(finished):
    home, printed = finished
    everything = [p for p in home.rglob("*") if p.is_file()]
    assert len(everything) > 100
    for secret in SECRETS.values():
        assert secret not in printed and not [p for p in everything if secret.encode() in p.read_bytes()]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the study runs in a fork")
def test_a_report_of_hostile_predictions_shows_text(finished, tmp_path):
    home, _ = finished
    run = runtime.open_run("killed", study=str(home / "mine.toml"))
    for path in run.path("predictions").rglob("questions.jsonl"):
        rows = evaluation.read(path)
        for number, row in enumerate(rows):
            row |= {k: XSS[(number + i) % len(XSS)] for i, k in enumerate(("text", "english", "reasoning", "answer"))}
        evaluation._write(path, rows)
    data = pipeline.load(run)
    some = data.questions["test"]
    data = dataclasses.replace(data, questions=data.questions | {"test": [
        r.replace(ja=XSS[i % len(XSS)], en=XSS[-i % len(XSS)], answer=f"{XSS[2 * i % len(XSS)]} 1", category=r.category if evaluation.is_control(r) else XSS[i % 3]) for i, r in enumerate(some)]})  # fmt: skip
    found = results.results(run, data)
    found = dataclasses.replace(found, examples=[{**found.examples[0], "id": f"x{i}", "question": p, "gold": p, "answer": p, "english": p, "reasoning": p} for i, p in enumerate(XSS)])
    folder = report.write(run, found, report.figures(run, found))
    check_page((folder / "report.html").read_text(encoding="utf-8"), XSS, 4)
    for name in ("report.md", "details.md"):
        page = (folder / name).read_text(encoding="utf-8")
        assert not re.search(r"<[a-zA-Z/!]", page)
        assert all(re.fullmatch(r"figures/\w+\.png|details\.md", link) for link in re.findall(r"\]\(([^)]*)\)", page)), name


# What is installed


@pytest.mark.slow
def test_no_pinned_package_has_a_known_vulnerability(tmp_path):
    """pip-audit, in an environment of its own, asks the index and OSV.dev; where neither tells, the test is skipped."""
    venv.create(tmp_path / "v", with_pip=True)
    python = tmp_path / "v" / ("Scripts" if os.name == "nt" else "bin") / "python"
    if subprocess.run([python, "-m", "pip", "install", "-q", "pip-audit"], capture_output=True).returncode:
        pytest.skip("pip-audit cannot be fetched")
    reasons = []
    for service in ("pypi", "osv"):
        command = [python, "-m", "pip_audit", "-r", str(ROOT / "helpers" / "pins.txt"), "--no-deps", "--disable-pip", "--timeout", "10", "-f", "json", "-s", service]
        done = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True, timeout=600)
        try:
            audited = json.loads(done.stdout)["dependencies"]
        except ValueError:
            reasons.append(f"{service}: {(done.stderr.strip().splitlines() or ['no answer'])[-1][:200]}")
            continue
        asked = [d for d in audited if "skip_reason" not in d]
        if len(asked) < len(audited) / 2:
            reasons.append(f"{service}: {audited[0].get('skip_reason', 'nothing told')[:200]}")
            continue
        found = {f"{d['name']} {d['version']}: {v['id']} (mended in {', '.join(v['fix_versions']) or 'no version'})" for d in asked for v in d["vulns"]}
        assert not found, "\n".join(sorted(found))
        return
    pytest.skip("no advisory service tells: " + "; ".join(reasons))




HASHES = ROOT / "helpers" / "hashes.txt"


def locked() -> dict[str, list[str]]:
    """name==version → its SHA-256 sums in helpers/hashes.txt."""
    text = re.sub(r"\\\n\s*", "", "".join(line for line in HASHES.read_text(encoding="utf-8").splitlines(True) if not line.startswith("#")))
    return {line.split()[0].lower().replace("_", "-"): re.findall(r"--hash=sha256:([0-9a-f]{64})(?![0-9a-f])", line) for line in text.splitlines() if line.strip()}


def test_every_pinned_package_has_its_hashes():
    from helpers import bootstrap

    pins = {f"{name}{version}".lower().replace("_", "-") for name, version in bootstrap.wanted(ROOT / bootstrap.PINS).items()}
    found = locked()
    assert found.keys() == pins and all(found.values())


@pytest.mark.slow
def test_pip_takes_a_file_of_the_right_hash_and_refuses_another(tmp_path):
    """Three small packages; their sums come from the lock, and then with one digit changed."""

    some = {name: sums for name, sums in locked().items() if name.partition("==")[0] in ("attrs", "click", "wcwidth")}
    assert len(some) == 3
    outcomes = []
    for change in (False, True):
        lines = [f"{name} " + " ".join(f"--hash=sha256:{s[:-1] + ('0' if s[-1] != '0' else '1') if change else s}" for s in sums) for name, sums in some.items()]
        path = files.write_text(tmp_path / "lock.txt", "\n".join(lines) + "\n")
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir", "--require-hashes", "-d", str(tmp_path / "got"), "-r", str(path)]
        outcomes.append(subprocess.run(command, capture_output=True, text=True))
    if outcomes[0].returncode and "HASH" not in outcomes[0].stderr.upper():
        pytest.skip("the index cannot be reached")
    assert outcomes[0].returncode == 0, outcomes[0].stderr
    assert outcomes[1].returncode and "DO NOT MATCH THE HASHES" in outcomes[1].stderr
