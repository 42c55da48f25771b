"""The review forms as a reader meets them: JupyterLab, a kernel and Chromium, with clicks, Japanese text, single keys and a restart."""

from __future__ import annotations

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

from helpers import corpora, gates
from helpers.edits import EditStore
from helpers.files import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
CELLS = (
    "import os\nfrom helpers import corpora, edits, review\nrecords = corpora.questions()[:12]",
    "review.curation_table(records, edits.EditStore('table.jsonl'))",
    "pairs = [(r.replace(reasoning=''), r.reasoning, '') for r in records]\n"
    "review.rationale_review(pairs, edits.EditStore('rationales.jsonl'))",
    "print('ready', os.getpid())",
)
# Controls of which a part is outside the output or cut off within.
CUT = """() => [...document.querySelectorAll('.jp-OutputArea-output')].flatMap(output =>
  [...output.querySelectorAll('button, label, textarea, select, input')].filter(e => e.offsetParent &&
    (e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > output.getBoundingClientRect().right + .5)
  ).map(e => e.tagName + ' ' + (e.placeholder || e.textContent)))"""
QUESTION = "日本で最も標高が高い山の名前は？"


def _missing() -> str:
    names = [name for name in ("jupyterlab", "playwright") if importlib.util.find_spec(name) is None]
    return " and ".join([*names, *([] if CHROMIUM else ["Chromium"])])


@pytest.fixture
def lab(tmp_path):
    """The address of a notebook with both forms in a JupyterLab of its own, and the folder that it writes to."""
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
        cells=[nbformat.v4.new_code_cell(text, id=f"c{i}") for i, text in enumerate(CELLS)],
        metadata={"kernelspec": {"name": "here", "display_name": "here", "language": "python"}},
    )
    work.mkdir()
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
        for process in psutil.wait_procs(family, timeout=15)[1]:
            process.kill()
        server.wait(15)


def _address(server: subprocess.Popen, runtime, token: str, log) -> str:
    """The address, once the server answers."""
    end = time.monotonic() + 40
    while time.monotonic() < end and server.poll() is None:
        for path in runtime.glob("jpserver-*.json"):
            try:
                url = json.loads(path.read_text())["url"]
                urllib.request.urlopen(f"{url}api/status?token={token}", timeout=5).close()
                return url
            except (OSError, ValueError):
                pass
        time.sleep(0.2)
    pytest.fail(f"JupyterLab does not answer:\n{log.read_text()[-3000:]}")


def _verdicts(path) -> dict[str, tuple[str, dict]]:
    return {d.id: (d.verdict, d.changes) for d in EditStore(path, say=pytest.fail).decisions().values()}


@pytest.mark.slow
@pytest.mark.skipif(bool(_missing()), reason=f"{_missing()} not installed: the forms are not tried in a browser")
def test_the_review_forms_in_a_browser(lab):
    from playwright.sync_api import expect, sync_playwright

    address, work = lab
    records = corpora.questions()[:12]
    first, second, third, *_ = records
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        page.set_default_timeout(20_000)
        expect.set_options(timeout=20_000)
        page.goto(address)
        expect(page.locator(".jp-CodeCell")).to_have_count(len(CELLS))
        # Without the kernel's name "Idle" is also what a notebook without a kernel shows; what is run then is lost.
        expect(page.locator("#jp-main-statusbar")).to_contain_text("here | Idle")
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        cells, ready = page.locator(".jp-CodeCell"), re.compile(r"ready \d+")
        table, form = cells.nth(1), cells.nth(2)
        expect(cells.nth(3)).to_contain_text(ready)
        kernel = cells.nth(3).locator(".jp-OutputArea-output").inner_text()

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
        for width in (700, 1000, 1400):
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
        expect(form).to_contain_text(f"5{number}済み / decided: 4")
        decided = _verdicts(work / "rationales.jsonl")
        assert decided[third.id] == ("edit", {"reasoning": text}) and decided[records[3].id] == ("reject", {})

        # A new kernel.
        page.locator("[data-command='notebook:restart-run-all']").first.click()
        page.locator(".jp-Dialog .jp-mod-accept").click()
        expect(cells.nth(3).locator(".jp-OutputArea-output")).to_contain_text(ready)
        expect(cells.nth(3).locator(".jp-OutputArea-output")).not_to_have_text(kernel)
        expect(row(first)).to_contain_text("除外 / rejected")
        expect(row(second)).to_contain_text(QUESTION)
        expect(form).to_contain_text(f"5{number}済み / decided: 4")
        box.click()
        decide("u")
        expect(form).to_contain_text(f"4{number}済み / decided: 3")
        assert _verdicts(work / "rationales.jsonl").keys() == {first.id, second.id, third.id}
        expect(cells).to_have_count(len(CELLS))  # no key went to the notebook
        browser.close()
