from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_plots import JAPANESE, _cut, _texts, strict  # noqa: F401 (a fixture)

from helpers import data_plots, figure_style, gates
from helpers.files import UserError
from helpers.records import Record


def _counts(tokenizers=("gemma3-270m", "phi-2")):
    rows = [(t, language, (3 + i % 5) * (1 + 2 * k * (language == "Japanese")), 10)
            for k, t in enumerate(tokenizers) for language in ("English", "Japanese") for i in range(40)]  # fmt: skip
    return pd.DataFrame(rows, columns=["tokenizer", "language", "tokens", "characters"])


def _outcomes(codes, teachers=("authored", "教師・外部")):
    training = [Record(f"r{i}", "qa", "問い", "question", "answer", category=c) for i, c in enumerate(("算数", "everyday") * 30)]
    rows = []
    for k, teacher in enumerate(teachers, 1):
        outcomes = {r.id: codes[i * k % len(codes)] for i, r in enumerate(training)}
        rows += gates.acceptance(training, outcomes, teacher)
    return rows


def _measured(rows=(10_000, 50_000, 203_308)):
    sizes = [{"rows": n, "seconds": n / 7000, "cpu_seconds": n / 7000, "peak_gb": 0.2 + n / 4e5} for n in rows]
    return {"sizes": sizes, "fit": {"seconds_per_10k": 1.4, "exponent": 0.896}}


def _inputs():
    kinds = [(k, t) for k in ("プロンプト", "plain", "with Reasoning") for t in range(5, 60, 2)]
    return {
        "funnel": [("文対", 203308), ("exact duplicates", 178031), ("評価データと重なるもの", 8000)],
        "lengths": pd.DataFrame(kinds, columns=["kind", "tokens"]),
        "composition": pd.DataFrame(
            [(c, s, 40) for c in ("算数", "日付") for s in ("train", "dev", "test")], columns=["category", "split", "n"]
        ),
        "fertility": _counts(),
        "acceptance": pd.DataFrame(_outcomes([gates.ACCEPTED, *gates.REASONS])),
        "scale": _measured(),
    }


NAMES = list(_inputs())
NEEDED = {"lengths": ["tokens"], "composition": ["category", "n"], "fertility": ["tokens", "characters"],
          "acceptance": ["teacher", "category", "n"]}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_renders_with_finding_and_alt_text(name):
    figure = getattr(data_plots, name)(_inputs()[name])
    assert figure.get_size_inches()[0] == figure_style.WIDTH
    assert len(figure.get_suptitle()) > 10
    assert any(c.isdigit() for c in figure_style.alt_text(figure)) and len(figure_style.alt_text(figure)) > 40
    assert _cut(figure) == []
    assert "nan" not in (_texts(figure) + figure_style.alt_text(figure)).lower()


@pytest.mark.parametrize("name", NAMES)
def test_title_and_alt_of_the_caller_win(name):
    figure = getattr(data_plots, name)(_inputs()[name], title=JAPANESE, alt="代替テキスト")
    assert figure.get_suptitle().replace("\n", "").replace("\xa0", " ").startswith("算数の文章題・日付")
    assert figure_style.alt_text(figure) == "代替テキスト"


@pytest.mark.parametrize("name", NEEDED)
def test_needed_columns_alone_are_enough_and_others_are_named(name):
    frame = _inputs()[name][NEEDED[name]].drop_duplicates(NEEDED[name][0])
    figure = getattr(data_plots, name)(frame.to_dict("list"))
    assert "no data" not in _texts(figure) and _cut(figure) == []
    with pytest.raises(UserError, match=NEEDED[name][0]):
        getattr(data_plots, name)(frame.rename(columns={NEEDED[name][0]: "other"}))


@pytest.mark.parametrize("name", NEEDED)
def test_nan_in_every_number_and_empty_tables_work(name):
    frame = _inputs()[name].copy()
    numbers = [c for c in frame.columns if pd.api.types.is_numeric_dtype(frame[c])]
    frame[numbers] = frame[numbers].astype(float)
    for row, column in enumerate(numbers):
        frame.loc[row % len(frame), column] = math.nan
    figure = getattr(data_plots, name)(frame)
    assert "nan" not in (_texts(figure) + figure_style.alt_text(figure)).lower()
    frame[numbers] = math.nan
    for nothing in (frame, []):
        assert "no data" in _texts(getattr(data_plots, name)(nothing))


def test_funnel_says_all_only_where_nothing_is_lost():
    texts = _texts(data_plots.funnel([("pairs", 203_308), ("readable", 203_308), ("languages", 203_298), ("kept", 176_660)]))
    assert "203,308 (100 %)" in texts and "203,298 (99.9 %)   −10" in texts
    assert "176,660 of 203,308 rows are kept (86.9\xa0%); most are lost at “kept”" in texts.replace("\n", " ")


def test_fertility_names_the_widest_gap_and_its_medians():
    figure = data_plots.fertility(_counts())
    # Median 5 tokens of 10 characters; phi-2 takes three times as many for Japanese, as many for English.
    found = figure.get_suptitle().replace("\n", " ")
    assert found.startswith("Japanese takes 3.0 times as many tokens with phi-2 as with gemma3-270m (1.50 and 0.50 per character); ")
    assert found.endswith("; English 0.50 with each")
    assert [ax.get_title(loc="left").split("\n")[0] for ax in figure.axes] == [
        "gemma3-270m, Japanese", "gemma3-270m, English", "phi-2, Japanese", "phi-2, English"]  # fmt: skip
    assert [ax.lines[0].get_xdata()[0] for ax in figure.axes] == pytest.approx([0.5, 0.5, 1.5, 0.5])
    assert [sum(bar.get_height() for bar in ax.patches) for ax in figure.axes] == pytest.approx([100] * 4)
    assert data_plots.fertility(_counts(("phi-2",))).get_suptitle().endswith("with phi-2: Japanese 0.50, English 0.50")


def test_fertility_with_a_gap_in_the_grid_and_empty_texts():
    frame = _counts()
    frame = frame[(frame["tokenizer"] != "phi-2") | (frame["language"] != "Japanese")]
    frame.loc[frame.index[0], ["tokens", "characters"]] = 0
    figure = data_plots.fertility(frame)
    assert figure.axes[0].get_xlabel() == "Japanese" and not figure.axes[2].axison
    assert any(label.get_visible() for label in figure.axes[0].get_xticklabels())
    assert "n = 39" in figure.axes[1].get_title(loc="left")


def test_acceptance_knows_every_outcome_by_a_colour_of_its_own():
    assert set(data_plots.OUTCOME_COLOURS) == {gates.ACCEPTED, *gates.REASONS}
    assert len(set(data_plots.OUTCOME_COLOURS.values())) == len(data_plots.OUTCOME_COLOURS)


def test_acceptance_fills_each_bar_and_counts_each_teacher():
    rows = _outcomes([gates.ACCEPTED, *gates.REASONS])
    figure = data_plots.acceptance(rows)
    ax = figure.axes[0]
    assert [c.get_label() for c in ax.containers] == list(data_plots.OUTCOME_COLOURS)
    assert np.allclose([sum(c[i].get_width() for c in ax.containers) for i in range(len(rows))], 100)
    assert figure.get_suptitle() == "Accepted: authored 6 of 60, 教師・外部 12 of 60"
    assert [t.get_text() for t in ax.get_yticklabels()][0] == "authored · everyday (30)"
    assert len(ax.lines) == 1  # between the two teachers
    none = data_plots.acceptance(_outcomes(["missing"], ("worked",)))
    assert none.get_suptitle() == "Accepted: worked 0 of 60"


def test_acceptance_takes_codes_of_the_users_own():
    rows = [{"teacher": "t", "category": "c", "n": 2, "accepted": 1, "新しい理由": 1}]
    rows += [{"teacher": "t", "category": "none asked", "n": 0}]
    figure = data_plots.acceptance(rows)
    assert "新しい理由" in _texts(figure) and "none asked" not in _texts(figure)


def test_scale_reads_the_file_of_the_benchmark(tmp_path):
    path = tmp_path / "curation_scale.json"
    path.write_text(json.dumps(_measured()), encoding="utf-8")
    figure = data_plots.scale(path)
    assert figure.get_suptitle() == "203,308 rows in 29 s with 0.71 GB; CPU time grows as rows^0.90"
    for ax, last in zip(figure.axes, (203_308 / 7000, 0.2 + 203_308 / 4e5), strict=True):
        straight, measured = ax.lines
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert measured.get_xdata().tolist() == [10_000, 50_000, 203_308]
        assert measured.get_ydata()[-1] == straight.get_ydata()[-1] == pytest.approx(last)
        assert straight.get_ydata()[0] == pytest.approx(last * 10_000 / 203_308)
        assert [t.get_text() for t in ax.get_xticklabels()] == ["10,000", "50,000", "203,308"]


def test_scale_of_one_size_or_none_or_another_file(tmp_path):
    figure = data_plots.scale({"sizes": _measured((1000,))["sizes"], "fit": None})
    assert figure.legends == [] and "grows" not in figure.get_suptitle() and _cut(figure) == []
    assert "no data" in _texts(data_plots.scale({"sizes": []}))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(UserError, match="curation_scale.json"):
        data_plots.scale(tmp_path / "other.json")


def test_shipped_benchmark_is_drawn_without_a_clash():
    figure = data_plots.scale(Path(data_plots.__file__).parent.parent / "notebooks" / "results" / "bench" / "curation_scale.json")
    assert _cut(figure) == []
    for ax in figure.axes:
        boxes = sorted((t.get_window_extent() for t in ax.texts), key=lambda box: box.x0)
        assert boxes[0].x0 > ax.get_window_extent().x0
        assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:], strict=False))


def test_import_is_light():
    code = "import sys; import helpers.data_plots; print({'matplotlib', 'pandas', 'numpy'} & set(sys.modules))"
    root = Path(data_plots.__file__).parent.parent
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).strip() == "set()"
