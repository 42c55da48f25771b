"""The notebooks as they are published: pictures described, widgets in a form that a viewer can draw, both languages, something to try."""

from __future__ import annotations

import re

import pytest

from helpers import notebooks
from helpers.files import ROOT

BOOKS = notebooks.listed(ROOT / "notebooks")
KANA = re.compile("[ぁ-んァ-ヶ一-龯]")
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
every = pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)


def _text(cell) -> str:
    return "".join(cell["source"])


def _outputs(book):
    return [output for cell in notebooks.code_cells(book) for output in cell["outputs"]]


def _headings(book):
    return [line for cell in book["cells"] if cell["cell_type"] == "markdown" for line in _text(cell).splitlines() if re.match("#+ ", line)]


def test_all_six_are_looked_at():
    assert [path.stem[:2] for path in BOOKS] == ["01", "02", "03", "04", "05", "06"]


@every
def test_every_picture_is_described(path):
    """A picture is described by what it shows, numbers included, once for each."""
    pictures = [o for o in _outputs(notebooks.load(path)) if any(kind.startswith("image/") for kind in o.get("data", ()))]
    assert pictures
    for output in pictures:
        for kind in filter(re.compile("image/").match, output["data"]):
            alt = output["metadata"].get(kind, {}).get("alt", "")
            assert len(alt) >= 30 and re.search(r"\d", alt) and "\n" not in alt, (kind, alt)


@every
def test_kept_widgets_can_be_drawn(path):
    """GitHub and Colab call a notebook invalid whose `metadata.widgets` lacks `state`; a view without its model is an error line."""
    book = notebooks.load(path)
    shown = {o["data"][VIEW]["model_id"] for o in _outputs(book) if VIEW in o.get("data", ())}
    kept = book["metadata"].get("widgets")
    assert (kept is not None) == bool(shown)
    if kept is not None:
        state = kept[STATE]
        assert state["version_major"] == 2 and state["version_minor"] == 0 and shown <= state["state"].keys()
        assert all({"model_name", "model_module", "state"} <= model.keys() for model in state["state"].values())


@every
def test_every_heading_is_in_both_languages(path):
    headings = _headings(notebooks.load(path))
    assert len(headings) >= 4
    for heading in headings:
        english, _, japanese = heading.partition(" / ")
        assert KANA.search(japanese) and not KANA.search(english), heading


@every
def test_there_is_something_to_try(path):
    texts = [_text(c) for c in notebooks.load(path)["cells"] if c["cell_type"] == "markdown"]
    assert sum("Try this" in text and "試し" in text for text in texts) == 1


@every
def test_the_opening_says_what_it_is_about_in_both_languages_with_its_sources(path):
    texts = [_text(c) for c in notebooks.load(path)["cells"] if c["cell_type"] == "markdown"]
    (opening,) = (text for text in texts if "**What this notebook does.**" in text)
    assert opening.startswith("**日本語の要約**") and all(part in opening for part in ("**Needs**", "**Makes**", "**Time**"))
    assert len(KANA.findall(opening)) > 60 and re.search(r"\]\(https://", opening)
    everything = "\n".join(texts)
    assert re.search(r"\bexpect\b", everything, re.I), "what to expect before"
    (seen,) = (text for text in texts if "## What was seen" in text)
    assert "In the run shown here" in seen and "ここに示した実行" in seen


def test_the_guide_has_a_glossary_and_a_cure_for_each_complaint():
    guide = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    rows = [line for line in guide.splitlines() if line.startswith("| ") and "---" not in line]
    for complaint in ("never stops", "nan", "out of memory", "checkpoint", "bf16", "invalid notebook"):
        assert any(complaint in row.split("|")[1].lower() and KANA.search(row.split("|")[1]) and len(row.split("|")[2]) > 60 for row in rows), complaint
    glossary = guide.split("| Term / 用語 |")[1].splitlines()
    assert sum(line.startswith("| ") and " / " in line for line in glossary) > 25
