"""Notebook files and headless runs, on small notebooks made here and executed by a real kernel."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from helpers import execution, notebooks, publication
from helpers.files import ROOT, UserError

v4 = nbformat.v4


def write(path: Path, *cells: str, parameters: str = "") -> None:
    """A notebook: a title, a parameters cell, then one cell per text (`md:` marks markdown)."""
    made = [v4.new_markdown_cell(f"# Title of {path.stem}")]
    if parameters:
        made.append(v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    made += [v4.new_markdown_cell(c[3:]) if c.startswith("md:") else v4.new_code_cell(c) for c in cells]
    for number, cell in enumerate(made):
        cell["id"] = f"c{number}"
    nbformat.write(v4.new_notebook(cells=made, metadata={"kernelspec": publication._KERNELSPEC}), path)


SECOND = """import sys
from pathlib import Path
folder = Path(RUNS) / RUN
(folder / "report" / "figures").mkdir(parents=True, exist_ok=True)
print("10%\\r100%\\nwrote", folder.resolve())
print("a progress bar", file=sys.stderr)
object()"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A repository of two notebooks that was run once with RUN=trial; `(root, done)`."""
    root = tmp_path_factory.mktemp("house {x}")
    for name in ("notebooks", "helpers", "data", "runs"):
        (root / name).mkdir()
    (root / "helpers" / "a.py").write_text("A = 1\n")
    (root / "data" / "d.jsonl").write_text("{}\n")
    (root / "pyproject.toml").write_text('[tool.bonsai]\n# why\nrepository = ""\n\n[tool.x]\nrepository = "kept"\n')
    (root / "README.md").write_text("# R\n\n<!-- badges -->\n<!-- /badges -->\n\nend\n")
    write(root / "notebooks" / "01_first.ipynb", "md:text", "# A step\nx = 1\nprint(x)")
    given = f'RUN = "default"  #@param\nRUNS = {str(root / "runs")!r}'
    write(root / "notebooks" / "02_second.ipynb", SECOND, parameters=given)
    notebooks.badges(root=root)
    for path in notebooks.listed(root / "notebooks"):  # these notebooks need no repository
        book = notebooks.load(path)
        next(c for c in book["cells"] if notebooks.role(c) == "setup")["source"] = "#@title Setup / 準備"
        notebooks.save(path, book)
    return root, run(root)


def run(root: Path, **changes):
    settings = {"parameters": {"RUN": "trial", "OTHER": 1}, "inputs": root} | changes
    return execution.run(root / "notebooks", root / "runs" / "trial", **settings)


def test_every_notebook_is_executed_whole_with_the_parameters_that_differ(house):
    root, done = house
    assert [(d.name, d.kept) for d in done] == [("01_first", False), ("02_second", False)]
    assert sorted(p.name for p in (root / "runs/trial/notebooks").iterdir()) == [
        "01_first.ipynb",
        "02_second.ipynb",
        "state.json",
    ]
    first = nbformat.read(root / "runs/trial/notebooks/01_first.ipynb", 4)
    assert [o.text for c in first.cells if c.cell_type == "code" for o in c.outputs] == ["1\n"]
    assert "injected-parameters" not in str(first)
    second = nbformat.read(root / "runs/trial/notebooks/02_second.ipynb", 4)
    injected = [c.source for c in second.cells if "injected-parameters" in c.metadata.get("tags", [])]
    assert len(injected) == 1 and 'RUN = "trial"' in injected[0] and "OTHER" not in injected[0]


def test_what_is_up_to_date_is_kept_and_what_changed_is_found(house, capsys, monkeypatch):
    root, _ = house
    executed = []
    monkeypatch.setattr(execution, "_execute", lambda path, target, given, label: executed.append(path.stem))
    state = root / "runs/trial/notebooks/state.json"
    before = state.read_text()

    def again(**changes):
        executed.clear()
        run(root, **changes)
        state.write_text(before)
        return list(executed)

    assert again() == []
    assert "[1/2] 01_first: up to date, kept" in capsys.readouterr().out
    assert again(parameters={}) == ["02_second"]

    def with_change(path, old, new):
        content = path.read_text(encoding="utf-8")
        assert old in content
        path.write_text(content.replace(old, new), encoding="utf-8")
        try:
            return again()
        finally:
            path.write_text(content, encoding="utf-8")

    books = root / "notebooks"
    assert with_change(books / "01_first.ipynb", "x = 1", "x = 2") == ["01_first", "02_second"]
    assert with_change(books / "01_first.ipynb", '"text"', '"typo mended"') == ["01_first"]
    assert with_change(books / "02_second.ipynb", "100%", "99%") == ["02_second"]
    assert with_change(root / "helpers/a.py", "A = 1", "A = 2") == ["01_first", "02_second"]
    assert with_change(root / "data/d.jsonl", "{}", "{ }") == ["01_first", "02_second"]
    assert with_change(books / "01_first.ipynb", '"outputs": []', '"outputs": [ ]') == []
    assert with_change(books / "01_first.ipynb", "#@title Setup", "#@title Setup / moved") == []
    assert with_change(state, "{", "broken {") == ["01_first", "02_second"]


def test_a_failing_cell_is_named_in_one_line_and_its_notebook_kept(tmp_path, capsys):
    write(
        tmp_path / "01_bad.ipynb",
        "x = 1",
        "md:text",
        "def f():\n    raise ValueError('first\\nsecond')\nf()",
        "print('never')",
    )
    with pytest.raises(UserError) as error:
        execution.run(tmp_path, tmp_path / "run", {})
    line = str(error.value)
    failed = tmp_path / "run/notebooks/01_bad.failed.ipynb"
    assert line.startswith("01_bad.ipynb, code cell 2: ValueError: first second (traceback: ") and "\n" not in line
    assert "Traceback" in failed.read_text() and list(failed.parent.iterdir()) == [failed]
    assert "Traceback" not in "".join(capsys.readouterr())
    write(tmp_path / "01_bad.ipynb", "x = 1")
    execution.run(tmp_path, tmp_path / "run", {})
    assert sorted(p.name for p in failed.parent.iterdir()) == ["01_bad.ipynb", "state.json"]


def test_a_killed_kernel_is_told_from_an_error(tmp_path):
    write(tmp_path / "01_oom.ipynb", "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(UserError, match=r"01_oom.ipynb, code cell 1: .*memory ran out.*failed\.ipynb"):
        execution.run(tmp_path, tmp_path / "run", {})


def test_an_interrupt_stops_the_kernel_and_leaves_no_part(tmp_path):
    write(tmp_path / "01_long.ipynb", "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)")
    code = (
        "import sys; from pathlib import Path; from helpers import __main__ as m, execution\n"
        f"p = Path({str(tmp_path)!r}); f = lambda o: execution.run(p, p / 'run', {{}})\n"
        "m.COMMANDS['doctor'] = m.Command('', m._no_options, f, needs=''); sys.exit(m.main(['doctor']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(300):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text():
            break
        time.sleep(0.1)
    with pytest.raises(UserError, match="another command is using this run folder"):
        execution.run(tmp_path, tmp_path / "run", {})
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and err == "interrupted; run the same command again to go on\n"
    assert list((tmp_path / "run/notebooks").iterdir()) == []
    kernel = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        for _ in range(50):
            os.kill(kernel, 0)
            time.sleep(0.1)


def test_the_summary_says_numbers_times_and_places(tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report/report.html").write_text("")
    (tmp_path / "report/headline.json").write_text(
        '{"翻訳": "+1.2", "verdict": "no detectable difference"}', encoding="utf-8"
    )
    lines = []
    execution.summary(tmp_path, [execution.Done("01_a", 2.0, True), execution.Done("02_b", 61.0, False)], lines.append)
    text = "\n".join(lines)
    assert "  翻訳     +1.2\n  verdict  no detectable difference\n" in text
    assert "01_a" in text and "(kept)" in text and "this run         1:01" in text
    assert f"{tmp_path / 'report/report.html'}\n" in text and f"{tmp_path / 'report/report.md'}  (not written)" in text


def test_times_say_where_a_run_went(house, tmp_path):
    book = notebooks.load(house[0] / "runs/trial/notebooks/01_first.ipynb")
    cells = notebooks.code_cells(book)
    assert all(c["metadata"]["papermill"]["duration"] > 0 for c in cells), "papermill says how long each cell took"
    for cell, seconds in zip(cells, (0.4, 75.0, 2.0), strict=False):
        cell["metadata"]["papermill"]["duration"] = seconds
    cells[1]["source"] = "# Train | it\nx = 1"
    notebooks.save(tmp_path / "notebooks" / "01_first.ipynb", book)
    page = execution.times(tmp_path)
    assert "| 2 | Train \\| it | 1:15 |" in page and "| 1 |" not in page
    assert execution.times(tmp_path / "nowhere") == ""
    execution.summary(tmp_path, [execution.Done("01_first", 77.0, False)], lambda line: None)
    assert (tmp_path / "times.md").read_text(encoding="utf-8") == page


def published(house, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(house[0] / "notebooks", root)
    return root, house[0] / "runs/trial"


def test_publication_copies_outputs_alone(house, tmp_path, monkeypatch):
    folder, done = published(house, tmp_path)
    monkeypatch.setenv("BONSAI_RUNS", str(house[0] / "runs"))
    before = [c["source"] for p in notebooks.listed(folder) for c in notebooks.load(p)["cells"]]
    assert [p.name for p in publication.publish(done, folder, house[0])] == ["01_first.ipynb", "02_second.ipynb"]
    assert [c["source"] for p in notebooks.listed(folder) for c in notebooks.load(p)["cells"]] == before
    second = folder / "02_second.ipynb"
    nbformat.validate(nbformat.read(second, 4))
    code = notebooks.code_cells(notebooks.load(second))
    assert [c["execution_count"] for c in code] == [1, 2, 3]
    assert code[-1]["outputs"][0]["text"] == ["100%\n", "wrote runs/trial\n"]
    assert code[-1]["outputs"][1]["data"] == {"text/plain": ["<object>"]}
    assert len(code[-1]["outputs"]) == 2
    outputs = "".join(json.dumps(c["outputs"]) for c in code)
    for word in ("progress bar", "10%", "0x"):
        assert word not in outputs, word
    assert "papermill" not in second.read_text(encoding="utf-8") and "injected" not in str(code)
    assert str(house[0]) not in outputs and str(Path.home()) not in outputs
    assert publication.publish(done, folder, house[0]) == []


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ('"x = 1\\n"', '"x = 5\\n"', "other sources"),
        ('"execution_count": 2', '"execution_count": 7', "not run 1 to 2 in order"),
        ('"name": "stdout",\n     "output_type": "stream",', '"output_type": "error",', "ended with an error"),
        ('"papermill"', None, "not there"),
    ],
)
def test_publication_refuses_what_is_not_a_finished_run(house, tmp_path, old, new, line):
    folder, done = published(house, tmp_path)
    shutil.copytree(done, tmp_path / "run")
    copy = tmp_path / "run/notebooks/01_first.ipynb"
    content = copy.read_text(encoding="utf-8")
    assert old in content
    copy.unlink() if new is None else copy.write_text(content.replace(old, new), encoding="utf-8")
    before = [p.read_bytes() for p in notebooks.listed(folder)]
    with pytest.raises(UserError, match=line):
        publication.publish(tmp_path / "run", folder, house[0])
    assert [p.read_bytes() for p in notebooks.listed(folder)] == before


def test_badges_write_the_address_everywhere_and_only_once(house, tmp_path):
    root = tmp_path / "r"
    shutil.copytree(house[0], root)
    changed = {p.name for p in notebooks.badges("hanako/my.notebooks", root)}
    assert changed == {"pyproject.toml", "01_first.ipynb", "02_second.ipynb", "README.md"}
    link = "https://colab.research.google.com/github/hanako/my.notebooks/blob/main/notebooks/02_second.ipynb"
    assert link in (root / "notebooks/02_second.ipynb").read_text(encoding="utf-8")
    readme = (root / "README.md").read_text(encoding="utf-8")
    assert (
        link in readme and "[Title of 02_second](notebooks/02_second.ipynb)" in readme and readme.endswith("\n\nend\n")
    )
    assert (
        'repository = "hanako/my.notebooks"\n\n[tool.x]\nrepository = "kept"' in (root / "pyproject.toml").read_text()
    )
    book = nbformat.read(root / "notebooks/02_second.ipynb", 4)
    nbformat.validate(book)
    assert [notebooks.role(c) for c in book.cells] == ["", "badge", "setup", "parameters", ""]
    assert 'ADDRESS, NAME = "hanako/my.notebooks", "bonsai-reasoning-notebooks"' in book.cells[2].source
    assert notebooks.badges("hanako/my.notebooks", root) == [] and notebooks.badges(None, root) == []
    for bad in ("hanako", "a/b/c", "-a/b", "a/..", "a/b c", 'a/b"'):
        with pytest.raises(UserError, match="OWNER/NAME"):
            notebooks.badges(bad, root)
    assert notebooks.address(root) == "hanako/my.notebooks"


def test_parameters_are_the_literals_of_the_tagged_cell(tmp_path):
    write(tmp_path / "01_p.ipynb", parameters='RUN = "default"  #@param {type:"string"}\nN: int = 3\nX = RUN + "a"\n')
    assert notebooks.defaults(notebooks.load(tmp_path / "01_p.ipynb")) == {"RUN": "default", "N": 3}
