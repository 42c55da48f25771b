"""The forms as a reader meets them: JupyterLab, a kernel and Chromium, with clicks, Japanese text, single keys, a stop and a restart."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest

from helpers import corpora, gates, playground
from helpers.edits import EditStore
from helpers.files import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
REVIEW = (
    "import os\nfrom helpers import corpora, edits, review\nrecords = corpora.questions()[:12]",
    "review.curation_table(records, edits.EditStore('table.jsonl'))",
    "pairs = [(r.replace(reasoning=''), r.reasoning, '') for r in records]\n"
    "review.rationale_review(pairs, edits.EditStore('rationales.jsonl'))",
    "print('ready', os.getpid())",
)
TABLE = (
    "import os\nfrom helpers import mapping\ngot = []\n"
    "def take(found):\n    if len(got) == 1:\n        raise OSError('the disk is full')\n    open('got.txt', 'w').write(repr([(r.ja, r.en) for r in found]))\n    got.append(found)",
    "mapping.mapping_widget('own.csv', take)",
    "print('ready', os.getpid())",
)
OWN = "文,Text,とても長い名前の列がここにもう一つあります\n水は何色ですか？,What color is water?,<b>Clear</b>\n雪は？,Snow?,White\n"
# Real completions of the tiny model, slow enough to be stopped: about 20 tokens a second.
PLAYGROUND = (
    "import os, time\nfrom helpers import answering, models, playground, profiles\nprofile = profiles.choose('tiny')\n"
    "tokenizer = models.load_tokenizer(profile)\nmodel = models.load_for_inference(profile)\n"
    "class Slow(answering.Answerer):\n"
    "    def __call__(self, system, request, seen, stop):\n"
    "        return super().__call__(system, request, seen, lambda: time.sleep(0.05) or stop())\n"
    "answer = Slow(profile, {name: lambda: (model, tokenizer) for name in ('base', 'plain')})",
    "playground.Playground(answer, 'playground')",
    "print('ready', os.getpid())",
)
# A real training of the tiny model, a third of a second a step, once there is a file called "go".
TRAINING = (
    "import os, time\nfrom helpers import corpora, display, profiles, runtime, training\nruntime.quiet()\n"
    "profile = profiles.choose('tiny').replace(batch_size=2, accumulation=1, replay_pairs=0, evaluations=1)\n"
    "questions = [q for q in corpora.questions() if q.split == 'train'][:12]\norder = training.plan(profile.recipe, [], questions)\n"
    "def slow(row):\n    show(row)\n    time.sleep(0.3)",
    "if os.path.exists('go'):\n    show = display.training_view(order.steps)\n    training.train(profile, order, {'pairs': [], 'questions': questions[:1]}, 'arm', progress=slow)",
    "print('ready', os.getpid())",
)
# Controls of which a part is outside the output or cut off within.
CUT = """() => [...document.querySelectorAll('.jp-OutputArea-output')].flatMap(output =>
  [...output.querySelectorAll('button, label, textarea, select, input')].filter(e => e.offsetParent &&
    (e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > output.getBoundingClientRect().right + .5)
  ).map(e => e.tagName + ' ' + (e.placeholder || e.textContent)))"""
READY = re.compile(r"ready \d+")
QUESTION = "日本で最も標高が高い山の名前は？"


def _missing() -> str:
    names = [name for name in ("jupyterlab", "playwright") if importlib.util.find_spec(name) is None]
    return " and ".join([*names, *([] if CHROMIUM else ["Chromium"])])


@contextlib.contextmanager
def lab(tmp_path, texts):
    """The address of a notebook of these cells in a JupyterLab of its own, and the folder that it writes to."""
    import psutil

    work, home = tmp_path / "work", tmp_path / "home"
    settings = {
        "apputils-extension/notification": {"fetchNews": "false"},
        "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is on the page, in view or not
    }
    for name, value in settings.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(value))
    kernel = home / "kernels" / "here"
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "here", "language": "python"}))
    book = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(text, id=f"c{i}") for i, text in enumerate(texts)],
        metadata={"kernelspec": {"name": "here", "display_name": "here", "language": "python"}},
    )
    work.mkdir(exist_ok=True)
    nbformat.write(book, work / "forms.ipynb")
    folders = {name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    folders |= {"JUPYTERLAB_SETTINGS_DIR": str(home / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces")}
    paths = {name: os.pathsep.join(filter(None, (str(first), os.environ.get(name)))) for name, first in (("JUPYTER_PATH", home), ("PYTHONPATH", ROOT))}
    token = secrets.token_hex(16)
    options = ["--allow-root", "--no-browser", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--ServerApp.root_dir={work}"]
    options += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.extension_manager=readonly"]
    environment = {**os.environ, **folders, **paths, "JUPYTER_TOKEN": token}
    log = tmp_path / "jupyterlab.log"
    with open(log, "wb") as out:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], cwd=work, env=environment, stdout=out, stderr=out)
    try:
        yield f"{_address(server, home / 'jupyter_runtime_dir', token, log)}doc/tree/forms.ipynb?token={token}", work
    finally:
        family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)] if server.poll() is None else []
        server.terminate()
        for process in psutil.wait_procs(family, timeout=patient(15))[1]:
            process.kill()
        server.wait(patient(15))


def _address(server: subprocess.Popen, runtime, token: str, log) -> str:
    """The address, once the server answers."""
    end = time.monotonic() + patient(40)
    while time.monotonic() < end and server.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            try:
                url = json.loads(path.read_text())["url"]
                urllib.request.urlopen(f"{url}api/status?token={token}", timeout=patient(5)).close()
                return url
            except (OSError, ValueError):
                pass
        time.sleep(0.2)
    pytest.fail(f"JupyterLab does not answer:\n{log.read_text()[-3000:]}")


@pytest.fixture
def browser_is_here():
    """Where a browser must be (`BONSAI_BROWSER=1`, as in .ci/run), a missing one is a failure: a skip would look like a pass."""
    if missing := _missing():
        (pytest.fail if os.environ.get("BONSAI_BROWSER") == "1" else pytest.skip)(f"{missing} not installed: the forms are not tried in a browser")


needed = pytest.mark.usefixtures("browser_is_here")


def patient(seconds: float) -> float:
    """A limit in seconds, times `BONSAI_TEST_PATIENCE` (1) and, on a machine with more to do than it has cores, times that load."""
    load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 1
    return seconds * float(os.environ.get("BONSAI_TEST_PATIENCE", "1")) * min(max(load, 1), 6)


def _ms(seconds: float) -> float:
    return 1000 * patient(seconds)


def _verdicts(path) -> dict[str, tuple[str, dict]]:
    return {d.id: (d.verdict, d.changes) for d in EditStore(path, say=pytest.fail).decisions().values()}


@contextlib.contextmanager
def opened(tmp_path, texts):
    """A page with these cells, run; the last of them prints "ready" and its process. And the folder that they write to."""
    from playwright.sync_api import expect, sync_playwright

    with lab(tmp_path, texts) as (address, work), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=_ms(30))
        page = browser.new_page(viewport={"width": 1100, "height": 900}, locale="ja-JP")
        page.set_default_timeout(_ms(20))
        expect.set_options(timeout=_ms(20))
        page.goto(address)
        expect(page.locator(".jp-CodeCell")).to_have_count(len(texts))
        # Without the kernel's name "Idle" is also what a notebook without a kernel shows; what is run then is lost.
        expect(page.locator("#jp-main-statusbar")).to_contain_text("here | Idle", timeout=_ms(60))
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        expect(page.locator(".jp-CodeCell").last).to_contain_text(READY, timeout=_ms(120))
        yield page, work
        browser.close()


def restart(page) -> None:
    """A new kernel, and every cell run in it."""
    from playwright.sync_api import expect

    last = page.locator(".jp-CodeCell").last.locator(".jp-OutputArea-output")
    before = last.inner_text()
    page.locator("[data-command='notebook:restart-run-all']").first.click()
    page.locator(".jp-Dialog .jp-mod-accept").click()
    expect(last).to_contain_text(READY, timeout=_ms(120))
    expect(last).not_to_have_text(before, timeout=_ms(120))


@pytest.mark.slow
@needed
def test_the_review_forms_in_a_browser(tmp_path):
    from playwright.sync_api import expect

    records = corpora.questions()[:12]
    first, second, third, *_ = records
    with opened(tmp_path, REVIEW) as (page, work):
        cells = page.locator(".jp-CodeCell")
        table, form = cells.nth(1), cells.nth(2)

        def row(record):
            text = page.locator(".widget-html", has_text=re.compile(rf"^\s*{record.id} · "))
            return table.locator(".widget-hbox", has=text).last

        def press(where, label):
            where.get_by_role("button", name=label).click()

        def decide(keys):
            page.wait_for_timeout(400)  # what comes sooner than this is refused as unread
            page.keyboard.press(keys)

        # The table: a click, Japanese text in the form, Japanese text in the search.
        press(row(first), "除外")
        expect(row(first)).to_contain_text("除外 / rejected")
        assert _verdicts(work / "table.jsonl") == {first.id: ("reject", {})}
        press(row(second), "編集")
        expect(table.get_by_label("日本語 / Japanese")).to_be_focused()
        assert row(second).bounding_box()["y"] < table.get_by_label("日本語 / Japanese").bounding_box()["y"] < row(third).bounding_box()["y"]
        page.keyboard.press("ControlOrMeta+A")
        page.keyboard.insert_text(QUESTION)
        for width in (520, 700, 1000, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(200)
            assert page.evaluate(CUT) == [], width
        press(table, "保存")
        expect(row(second)).to_contain_text("編集済み / edited")
        assert _verdicts(work / "table.jsonl")[second.id] == ("edit", {"ja": QUESTION})
        table.get_by_label("検索").click()
        for character in "標高が":
            page.keyboard.insert_text(character)
        expect(table).to_contain_text("1 / 1 (1 件 / records)")
        expect(row(second)).to_contain_text(QUESTION)
        expect(table.get_by_label("検索")).to_be_focused()

        table.get_by_label("検索").fill("")
        expect(table).to_contain_text("1 / 2 (12 件 / records)")

        # The table by keys: the box stays below the marked row, on the screen and in focus, to the last row.
        keys = table.get_by_label("コマンド")
        keys.click()

        def is_marked(record):
            # A row is drawn before the one that was marked until then: two of them for a moment.
            expect(table.locator("[aria-current]").filter(has_text=f"{record.id} · ")).to_have_count(1)
            expect(table.locator("[aria-current]")).to_have_count(1)

        for record in records[:9]:
            is_marked(record)
            decide("n")
            expect(keys).to_have_value("")
        is_marked(records[9])
        expect(table.locator("[aria-current]")).to_be_in_viewport()
        expect(keys).to_be_focused()
        decide("a")
        is_marked(records[10])
        assert _verdicts(work / "table.jsonl")[records[9].id] == ("accept", {})
        decide("u")
        is_marked(records[9])
        assert _verdicts(work / "table.jsonl").keys() == {first.id, second.id}
        decide("e")
        expect(table.get_by_label("日本語 / Japanese")).to_be_focused()
        press(table, "中止")
        expect(keys).to_be_focused()

        # The rationales: every key, one of them from a Japanese input method, focus staying where keys are taken.
        box, number = form.get_by_label("コマンド"), f" / {len(records)} · "
        box.click()
        for key, place, focused in (("r", 2, box), ("n", 3, box), ("p", 2, box), ("u", 1, box), ("a", 2, box)):
            decide(key)
            expect(form).to_contain_text(f"{place}{number}")
            expect(focused).to_be_focused()
            expect(focused).to_have_value("")
        page.wait_for_timeout(400)
        composing = {"text": "あ", "selectionStart": 1, "selectionEnd": 1}
        page.context.new_cdp_session(page).send("Input.imeSetComposition", composing)
        expect(form).to_contain_text(f"3{number}")
        assert _verdicts(work / "rationales.jsonl") == {first.id: ("accept", {}), second.id: ("accept", {})}
        text = third.reasoning.replace("The largest", "Japan's largest")
        assert text != third.reasoning and not gates.gate(third.replace(reasoning=text), text)
        decide("e")
        expect(form.get_by_label("推論")).to_be_focused()
        page.keyboard.press("ControlOrMeta+A")
        page.keyboard.insert_text("日本で一番大きな湖です。")
        press(form, "保存")
        expect(form).to_contain_text("not-english")
        form.get_by_label("推論").fill(text)
        press(form, "保存")
        expect(form).to_contain_text(f"4{number}")
        expect(box).to_be_focused()
        decide("r")
        expect(form).to_contain_text(f"5{number}判断済み / decided: 4")
        decided = _verdicts(work / "rationales.jsonl")
        assert decided[third.id] == ("edit", {"reasoning": text}) and decided[records[3].id] == ("reject", {})

        form.get_by_label("状態").select_option(label="除外 / rejected")
        expect(form).to_contain_text(f"1 / 1 · 判断済み / decided: 4{number}{records[3].id}")
        restart(page)
        expect(row(first)).to_contain_text("除外 / rejected")
        expect(row(second)).to_contain_text(QUESTION)
        expect(form).to_contain_text(f"5{number}判断済み / decided: 4")
        box.click()
        decide("u")
        expect(form).to_contain_text(f"4{number}判断済み / decided: 3")
        assert _verdicts(work / "rationales.jsonl").keys() == {first.id, second.id, third.id}
        expect(cells).to_have_count(len(REVIEW))  # no key went to the notebook


@pytest.mark.slow
@needed
def test_the_form_for_a_table_of_one_s_own_in_a_browser(tmp_path):
    from playwright.sync_api import expect

    work = tmp_path / "work"
    work.mkdir()
    (work / "own.csv").write_text(OWN, encoding="utf-8")
    with opened(tmp_path, TABLE) as (page, work):
        form = page.locator(".jp-CodeCell").nth(1)
        for width in (520, 700, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(200)
            assert page.evaluate(CUT) == [], width
            assert min(box.bounding_box()["width"] for box in form.locator("select").all()) > 100, width
            form.screenshot(path=tmp_path / f"mapping-{width}.png")
        load = form.get_by_role("button", name="読み込む")
        load.click()
        expect(form).to_contain_text("エラー / error")
        form.get_by_label("日本語の文").select_option(label="文")
        form.get_by_label("英語の文").select_option(label="Text")
        load.click()
        expect(form).to_contain_text("2 件を読み込みました / 2 records loaded")
        assert "What color is water?" in (work / "got.txt").read_text(encoding="utf-8")
        expect(form).to_contain_text("<b>Clear</b>")
        load.click()
        expect(form).to_contain_text("エラー / error: OSError: the disk is full")
        expect(load).to_be_enabled()


@pytest.mark.slow
@needed
def test_the_playground_in_a_browser(tmp_path):
    from playwright.sync_api import expect

    with opened(tmp_path, PLAYGROUND) as (page, work):
        form = page.locator(".jp-CodeCell").nth(1)
        run, stop = (form.get_by_role("button", name=name) for name in ("実行 / Run", "停止 / Stop"))
        kept = work / "playground" / "history.jsonl"

        def rows():
            return [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]

        for width in (520, 700, 1000, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(200)
            assert page.evaluate(CUT) == [], width
            tracks = [track.bounding_box()["width"] for track in form.locator(".noUi-target").all()]
            assert len(tracks) == 3 and min(tracks) > 100, (width, tracks)
        # An example, run to its end by both.
        form.get_by_role("button", name=playground.EXAMPLES[0][0]).click()
        expect(form.get_by_label("日本語 / Japanese")).to_have_value(playground.EXAMPLES[0][0])
        run.click()
        expect(run).to_be_enabled()
        expect(form.locator("table")).to_contain_text(playground.EXAMPLES[0][0])
        assert [r["system"] for r in rows()] == ["base", "plain"] and not any(r["error"] or r["stopped"] for r in rows())
        form.get_by_role("button", name="👍").nth(1).click()
        expect(form.locator("table")).to_contain_text("👍")
        # Japanese text of a reader's own, seen while it is written, stopped in the middle.
        form.get_by_label("日本語 / Japanese").fill("")
        form.get_by_label("日本語 / Japanese").click()
        for character in "富士山はどこ？<b>🗻":
            page.keyboard.insert_text(character)
        slider = form.locator(".widget-vbox", has_text="Max tokens").last.locator(".widget-readout")
        slider.click()
        page.keyboard.press("ControlOrMeta+A")
        page.keyboard.type("96")
        page.keyboard.press("Enter")
        run.click()
        expect(form.get_by_role("button", name="計算中 / running")).to_be_disabled()
        box = form.locator(".widget-html", has_text=re.compile("^英語 / English")).first
        expect(box).to_be_visible()
        early = box.inner_text()
        expect(box).not_to_have_text(early)
        page.screenshot(path=tmp_path / "streaming.png", full_page=True)
        stop.click()
        expect(form).to_contain_text("停止 / stopped")
        expect(run).to_be_enabled()
        *_, last = rows()
        assert last["stopped"] and last["question"] == "富士山はどこ？<b>🗻" and last["system"] == "base" and 1 < last["written"] < 96
        assert len(last["english"]) >= len(early) - len("英語 / English")
        # The mode that takes English, with a right answer of the reader's.
        form.get_by_label("方式 / Mode").select_option(label="英語の質問に答える / answer an English question")
        form.get_by_role("button", name=playground.EXAMPLES[1][1]).click()
        run.click()
        expect(form.locator("table")).to_contain_text(playground.EXAMPLES[1][1])
        expect(run).to_be_enabled()
        form.get_by_label("正しい答え").fill("Paris")
        page.keyboard.press("Tab")
        expect(form.locator("table")).to_contain_text("right answer: Paris")
        form.get_by_role("button", name="CSV").click()
        expect(form).to_contain_text("保存しました / saved")
        expect(form).to_contain_text("history.jsonl, rated.jsonl")
        page.wait_for_timeout(300)
        assert page.evaluate(CUT) == []
        page.set_viewport_size({"width": 1000, "height": 1800})
        page.wait_for_timeout(300)
        form.screenshot(path=tmp_path / "playground.png")
        restart(page)
        expect(form.locator("table")).to_contain_text("right answer: Paris")
        expect(form.locator("table")).to_contain_text("富士山はどこ？<b>🗻")
        assert len(rows()) == 5 and rows()[1]["rating"] == "up"
        # A run of the kernel before: shown again, its rating taken back.
        form.get_by_label("履歴から選ぶ").select_option(label=f"1 · {playground.EXAMPLES[0][0]} · base, plain 👍")
        expect(form.get_by_role("button", name="👍")).to_have_count(2)
        form.get_by_role("button", name="👍").nth(1).click()
        expect(form.locator("table")).not_to_contain_text("👍")
        assert rows()[1]["rating"] == ""


@pytest.mark.slow
@needed
def test_training_is_paused_with_the_stop_button_of_the_notebook_and_goes_on(tmp_path):
    from playwright.sync_api import expect

    with opened(tmp_path, TRAINING) as (page, work):
        (work / "go").touch()
        cell = page.locator(".jp-CodeCell").nth(1)

        def run():
            cell.locator(".cm-content").click()
            page.keyboard.press("Control+Enter")

        run()
        expect(cell).to_contain_text(re.compile(r"step [3-9]/12"), timeout=_ms(60))
        expect(cell).to_contain_text("一時停止して保存 / (interrupt the kernel): pause and save")
        expect(cell.locator("svg polyline")).to_be_visible()
        cell.screenshot(path=tmp_path / "training.png")
        page.locator("[data-command='notebook:interrupt-kernel']").first.click()
        expect(cell).to_contain_text(re.compile(r"paused at step \d+ of 12, and saved"))
        reached = int(re.search(r"paused at step (\d+)", cell.inner_text())[1])
        run()
        expect(cell).to_contain_text(f"Going on from step {reached} of 12.", timeout=_ms(60))
        expect(cell).to_contain_text("完了 / done in", timeout=_ms(60))
        steps = [json.loads(line)["step"] for line in (work / "arm" / "log.jsonl").read_text().splitlines()]
        assert 3 <= reached < 12 and steps == list(range(13)), "no gap and no repeat"
        expect(cell).not_to_contain_text("Traceback")


@pytest.mark.slow
@needed
def test_a_report_opens_offline_and_prints(tmp_path, monkeypatch, pairs):
    """Self-contained, escaped, and on paper: the page and a half, then the details where they have been opened."""
    from playwright.sync_api import sync_playwright

    from helpers import evaluation, pipeline, report, results, runtime

    monkeypatch.setenv("BONSAI_RUNS", str(tmp_path))
    many = [p.replace(id=f"{p.id}-{n}", ja=f"{n}番目の話。{p.ja}", en=f"Story {n}. {p.en}") for n in range(6) for p in pairs]
    monkeypatch.setattr(corpora, "tatoeba", lambda say=print: many)
    run = runtime.open_run("t", "tiny", train_pairs=16, dev_pairs=2, test_pairs=4, replay_pairs=8)
    data = pipeline.ensure(run, train=True)
    evaluation.predict(run, data)
    tables = results.results(run, data)
    tables.examples[0].update(question="<script>document.title='broken'</script>", answer="<img src=x onerror=\"document.title='broken'\">")
    folder = report.write(run, tables, report.figures(run, tables))
    asked = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=_ms(30))
        page = browser.new_page(viewport={"width": 1000, "height": 1300})
        page.on("request", lambda request: asked.append(request.url))
        page.goto((folder / "report.html").as_uri())
        assert page.title().startswith("Does adding Reasoning") and all(u.startswith(("file:", "data:")) for u in asked)
        drawn = page.evaluate("[...document.images].map(i => i.naturalWidth > 0 && i.alt.length > 10)")
        assert len(drawn) >= 6 and all(drawn)
        closed = page.pdf(format="A4")
        page.locator("summary").click()
        opened = page.pdf(format="A4")
        page.screenshot(path=tmp_path / "report.png", full_page=True)
        (tmp_path / "report.pdf").write_bytes(closed)
        browser.close()
    pages = [len(re.findall(rb"/Type\s*/Page\b", text)) for text in (closed, opened)]
    assert pages[0] <= 5 and pages[0] < pages[1], pages
