from __future__ import annotations

import math
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from helpers import data_plots, figure_style, plots
from helpers.files import UserError

ARMS = ("base", "plain", "reasoned-33", "私の腕")
JAPANESE = "算数の文章題・日付（曜日）、富士山は3,776 mです。「翻訳」→ 英語ー々〜％ﾊﾝｶｸ髙"


def _points(column, places, arms=ARMS):
    rows = [(a, p, 10.0 + 7 * i + 9 * j) for i, a in enumerate(arms) for j, p in enumerate(places)]
    frame = pd.DataFrame(rows, columns=["arm", column, "value"])
    return frame.assign(low=frame["value"] - 6, high=frame["value"] + 7, n=200)


def _log(arms=ARMS[1:]):
    rows = [{"arm": "base", "step": 0, "tokens_seen": 0, "dev_answer_loss": 2.9}]
    for k, arm in enumerate(arms):
        for step in range(1, 31):
            row = {"arm": arm, "step": step, "tokens_seen": step * 900, "loss": 3 / step + k, "grad_norm": 1.0}
            row["learning_rate"] = 2e-4 * (1 - step / 30)
            if step % 10 == 0:
                row |= {"dev_answer_loss": 2.0 - step / 30 + k, "dev_translation_loss": 2.5 - step / 30}
            rows.append(row)
    return pd.DataFrame(rows)


def _differences():
    rows = [("算数: reasoned-33 − plain", 34.5, 27.1, 41.6, 200), ("S4", 4.1, -1.2, 9.4, 500), ("S2", -8.0, -12, -4, 500)]
    return pd.DataFrame(rows, columns=["label", "value", "low", "high", "n"])


def _inputs():
    steps = [(a, s, n) for a in ARMS for s, n in zip(figure_style.STEP_COLOURS, (40, 10, 20, 130), strict=True)]
    return {
        "loss_curves": _log(),
        "stages": _points("stage", ("S2", "S3", "S4", "S5")),
        "translation": _points("arm", ("",)).rename(columns={"arm": "x"}).assign(system=list(ARMS)),
        "forest": _differences(),
        "broken_steps": pd.DataFrame(steps, columns=["arm", "step", "n"]),
        "by_category": _points("category", ("算数", "日付")),
    }


NAMES = list(_inputs())
NEEDED = {"loss_curves": ["arm", "loss"], "stages": ["stage", "value"], "translation": ["system", "value"],
          "forest": ["label", "value"], "broken_steps": ["step", "n"], "by_category": ["category", "value"]}  # fmt: skip


@pytest.fixture(autouse=True)
def strict():
    with warnings.catch_warnings():
        for category in (UserWarning, FutureWarning, RuntimeWarning):  # a missing glyph, a layout that does not fit
            warnings.simplefilter("error", category)
        warnings.filterwarnings("ignore", message=".*deprecated - use")  # matplotlib 3.10 with a newer pyparsing
        yield


def _texts(figure):
    from matplotlib.text import Text

    return " ".join(text.get_text() for text in figure.findobj(Text) if text.get_visible())


def _cut(figure):
    """Texts that leave the picture, by more than a pixel."""
    width, height = figure.bbox.width, figure.bbox.height
    found = []
    shown = [figure._suptitle]
    for ax in figure.axes:
        low, high = sorted(ax.get_ylim())
        ticks = [t for t in ax.get_yticklabels() if low <= t.get_position()[1] <= high]  # others are not drawn
        shown += [*ticks, *ax.texts, ax.xaxis.label, ax.yaxis.label]
    for artist in shown:
        box = artist.get_window_extent()
        outside = box.x0 < -1 or box.y0 < -1 or box.x1 > width + 1 or box.y1 > height + 1
        if artist.get_text() and artist.get_visible() and outside:
            found.append(artist.get_text())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_renders_with_finding_and_alt_text(name):
    figure = getattr(plots, name)(_inputs()[name])
    assert figure.get_size_inches()[0] == figure_style.WIDTH
    assert len(figure.get_suptitle()) > 10
    assert any(c.isdigit() for c in figure_style.alt_text(figure)) and len(figure_style.alt_text(figure)) > 40
    assert _cut(figure) == []
    assert "nan" not in (_texts(figure) + figure_style.alt_text(figure)).lower()


@pytest.mark.parametrize("name", ["translation", "forest"])
def test_title_and_alt_of_the_caller_win(name):
    figure = getattr(plots, name)(_inputs()[name], title=JAPANESE, alt="代替テキスト")
    assert figure.get_suptitle().replace("\n", "").replace("\xa0", " ").startswith("算数の文章題・日付")
    assert figure_style.alt_text(figure) == "代替テキスト"


@pytest.mark.parametrize("name", NEEDED)
def test_needed_columns_alone_are_enough_and_others_are_named(name):
    frame = _inputs()[name][NEEDED[name]].drop_duplicates(NEEDED[name][0])
    figure = getattr(plots, name)(frame.to_dict("list"))
    assert "no data" not in _texts(figure) and _cut(figure) == []
    with pytest.raises(UserError, match=NEEDED[name][0]):
        getattr(plots, name)(frame.rename(columns={NEEDED[name][0]: "other"}))


@pytest.mark.parametrize("name", NEEDED)
def test_nan_in_every_number_and_empty_tables_work(name):
    frame = _inputs()[name].copy()
    numbers = [c for c in frame.columns if pd.api.types.is_numeric_dtype(frame[c])]
    frame[numbers] = frame[numbers].astype(float)
    for row, column in enumerate(numbers):
        frame.loc[row, column] = math.nan
    figure = getattr(plots, name)(frame)
    assert "nan" not in (_texts(figure) + figure_style.alt_text(figure)).lower()
    frame[numbers] = math.nan
    for nothing in (frame, []):
        assert "no data" in _texts(getattr(plots, name)(nothing))


@pytest.mark.parametrize("name", ["loss_curves", "stages", "broken_steps", "by_category"])
def test_one_arm(name):
    frame = _inputs()[name]
    figure = getattr(plots, name)(frame[frame["arm"] == "plain"])
    assert "plain" in _texts(figure) and "reasoned" not in _texts(figure)


def test_findings_are_derived_from_the_numbers():
    inputs = _inputs()
    assert "2 of 3 differences are clear of zero" in plots.forest(inputs["forest"]).get_suptitle()
    assert "+34.5 [+27.1, +41.6]  n = 200" in _texts(plots.forest(inputs["forest"]))
    assert "81\xa0% break at" in plots.broken_steps(inputs["broken_steps"]).get_suptitle()
    assert "plain\xa01.00" in plots.loss_curves(inputs["loss_curves"]).get_suptitle()
    fall = _points("category", ("算数", "日付"), ("base", "plain"))
    fall["value"] = [50.0, 50.0, 20.0, 45.0]
    assert "−30.0" in plots.by_category(fall).get_suptitle().replace("-", "−")


def test_translation_highlights_the_highest_alone():
    ax = plots.translation(_inputs()["translation"]).axes[0]
    colours = [label.get_color() for label in ax.get_yticklabels()]
    assert ax.get_yticklabels()[0].get_text() == ARMS[-1]
    assert colours[0] == figure_style.VERMILLION and set(colours[1:]) == {figure_style.INK}


def test_a_forest_of_unequal_numbers_of_seeds_says_so():
    figure = plots.forest(_differences().assign(seeds=[3, 3, 1]))
    assert "2 of 3 differences are clear of zero" in (said := figure.get_suptitle().replace("\n", " ")) and "(1 of 2 with 3 seeds, 1 of 1 with 1 seed)" in said
    assert "−8.0 [−12.0, −4.0]\nn = 500, 1 seed" in _texts(figure) and "seed" not in "".join(_texts(plots.forest(_differences().assign(seeds=3))))


def test_a_forest_with_outcomes_is_coloured_by_them():
    figure = plots.forest(_differences().assign(outcome=["improves", "no detectable difference", "no detectable difference"]))
    assert "1 of 3 differences holds after correction" in figure.get_suptitle().replace("\n", " ")


def test_forest_colours_say_on_which_side_of_zero():
    ax = plots.forest(_differences()).axes[0]
    colours = [c.lines[0].get_color() for c in ax.containers]
    assert colours == [figure_style.BLUE, figure_style.GREY, figure_style.VERMILLION]


def test_dose_has_a_panel_for_each_set_and_a_line_for_each_stage():
    rows = [
        {"percent": p, "stage": stage, "set": which, "value": 5 + p / 10 * (which == "control"), "low": 3, "high": 20, "n": 300}
        for which in ("control", "authored") for stage in ("S2", "S4") for p in (33, 0, 100)
    ]  # fmt: skip
    figure = plots.dose(pd.DataFrame(rows))
    left, right = figure.axes
    assert (left.get_title(loc="left"), right.get_title(loc="left")) == ("authored questions", "positive control")
    assert [c.get_label() for c in left.containers] == ["S2", "S4"]
    assert list(right.containers[1].lines[0].get_ydata()) == [5, 8.3, 15], "from none to all"
    assert "From 0 % to 100 % Reasoning: S4 on authored 5.0 → 5.0 %, S4 on control 5.0 → 15.0 %" in " ".join(figure.get_suptitle().split())
    assert len(plots.dose(pd.DataFrame([r for r in rows if r["set"] == "control"])).axes) == 1


def test_broken_steps_fill_the_bar_and_know_both_spellings():
    frame = _inputs()["broken_steps"].replace({"knowledge-reasoning": "knowledge/reasoning"})
    ax = plots.broken_steps(frame).axes[0]
    assert [c.get_label() for c in ax.containers] == ["right", "chaining", "translation", "knowledge/reasoning"]
    assert np.allclose([sum(c[i].get_width() for c in ax.containers) for i in range(len(ARMS))], 100)


def test_legend_is_drawn_once_for_all_panels():
    figure = plots.loss_curves(_log())
    assert len(figure.legends) == 1 and all(ax.get_legend() is None for ax in figure.axes)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(ARMS)


def test_japanese_glyphs_are_in_the_font_and_would_be_missed():
    from matplotlib.figure import Figure

    with figure_style.style():
        figure = Figure()
        figure.text(0, 0.5, JAPANESE)
        figure.draw_without_rendering()
        with pytest.warns(UserWarning, match="Glyph .* missing"):
            figure.text(0, 0.2, "語", family="DejaVu Sans")
            figure.draw_without_rendering()


def test_dollar_signs_are_text():
    figure = data_plots.funnel([("$5 and $6", 3), ("a_b^c $x", 2)], title="price $5 to $6_{")
    assert "$5 and $6" in _texts(figure)


def test_font_registers_once():
    from matplotlib import font_manager

    figure_style.japanese_font()
    before = len(font_manager.fontManager.ttflist)
    assert figure_style.japanese_font() == "IPAexGothic"
    assert len(font_manager.fontManager.ttflist) == before
    assert "matplotlib_fontja" not in sys.modules


def test_without_the_font_one_warning_names_the_package():
    code = """
import sys, warnings
sys.modules["matplotlib_fontja"] = None  # not importable
from matplotlib import font_manager
manager = font_manager.fontManager
manager.ttflist = [font for font in manager.ttflist if font.name == "DejaVu Sans"]
from helpers import data_plots, figure_style, plots
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    data_plots.funnel([("算数", 3), ("日付", 2)])
    data_plots.funnel([("算数", 3), ("日付", 2)])
print([str(w.message) for w in caught])
"""
    root = Path(plots.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=root, check=True, encoding="utf-8")
    assert done.stdout.count("pip install matplotlib-fontja==") == 1
    assert "Glyph" not in done.stdout + done.stderr


def test_style_ends_with_its_block_and_import_is_light():
    import matplotlib

    before = dict(matplotlib.rcParams)
    with figure_style.style():
        assert matplotlib.rcParams["font.size"] == 11
        assert matplotlib.rcParams["figure.figsize"] == [7.0, 3.6]
    plots.forest(_differences())
    assert dict(matplotlib.rcParams) == before
    code = "import sys; import helpers.plots; print({'matplotlib', 'pandas', 'numpy'} & set(sys.modules))"
    root = Path(plots.__file__).parent.parent
    assert subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True).strip() == "set()"


def test_arm_colours_are_stable_and_apart():
    assert figure_style.arm_colour("base") == "#8A8A8A"
    assert figure_style.arm_colour("plain") == "#0072B2"
    assert figure_style.arm_colour("reasoned-33") == "#D55E00"
    assert len(set(figure_style.ARM_COLOURS.values())) == len(figure_style.ARM_COLOURS)
    # Known values: a salted hash would change them from one session to the next.
    assert (figure_style.arm_colour("mine-a"), figure_style.arm_colour("私の腕")) == ("#000000", "#009E73")
    mine = plots.stages(_points("stage", ("S2",), ("plain", "mine-a", "mine-b", "mine-c", "mine-d"))).axes[0]
    assert len({c.lines[0].get_color() for c in mine.containers}) == 5


def test_colour_of_an_arm_is_the_same_in_every_figure():
    stages = plots.stages(_points("stage", ("S4",), ("reasoned-33",))).axes[0].containers[0].lines[0]
    curve = plots.loss_curves(_log(("reasoned-33",))).axes[0].lines[-1]
    assert stages.get_color() == curve.get_color() == figure_style.ARM_COLOURS["reasoned-33"]


def test_notebook_shows_it_once_with_alt_text():
    import matplotlib.pyplot as plt
    from IPython.core.formatters import DisplayFormatter

    figure = plots.forest(_differences())
    assert plt.get_fignums() == []  # else the inline backend would show it a second time
    data, metadata = DisplayFormatter().format(figure)
    assert data["image/png"].startswith("iVBOR")
    assert metadata["image/png"] == {"alt": figure_style.alt_text(figure), "width": 700, "height": 230}


def test_save_writes_both_with_metadata_and_the_same_bytes_again(tmp_path):
    from PIL import Image

    figure = plots.forest(_differences())
    figure_style.save(plots.loss_curves(_log()), tmp_path, "curves")
    png, svg = figure_style.save(figure, tmp_path / "new", "forest", "差の 95 % 区間 <a&b>")
    assert (png.name, svg.name) == ("forest.png", "forest.svg")
    with Image.open(png) as image:
        assert image.size[0] == 7 * 160
        assert image.text["Description"] == "差の 95 % 区間 <a&b>"
    text = svg.read_text(encoding="utf-8")
    assert "差の 95 % 区間 &lt;a&amp;b&gt;" in text and text.rstrip().endswith("</svg>") and "<text" not in text
    first = png.read_bytes(), svg.read_bytes()
    figure_style.save(plots.forest(_differences()), tmp_path / "new", "forest", "差の 95 % 区間 <a&b>")
    assert (png.read_bytes(), svg.read_bytes()) == first


def test_save_leaves_nothing_half_written(tmp_path):
    figure = plots.forest(_differences())
    figure_style.save(figure, tmp_path, "forest")
    kept = (tmp_path / "forest.png").read_bytes()

    class Broken(type(figure.axes[0].lines[0])):
        def draw(self, renderer):
            if "svg" in type(getattr(renderer, "_renderer", renderer)).__name__.lower():
                raise RuntimeError("cannot draw")

    figure.axes[0].add_line(Broken([0], [0]))
    with pytest.raises(RuntimeError):
        figure_style.save(figure, tmp_path, "forest")
    with pytest.raises(RuntimeError):
        figure_style.save(figure, tmp_path / "other", "forest")
    assert (tmp_path / "forest.png").read_bytes() == kept
    assert sorted(p.name for p in tmp_path.iterdir()) == ["forest.png", "forest.svg"]


@pytest.mark.parametrize("name", ["", "a/b", "..", "../x", "a\\b"])
def test_save_wants_a_plain_file_name(name, tmp_path):
    with pytest.raises(UserError, match="plain file name"):
        figure_style.save(plots.forest(_differences()), tmp_path, name)


def test_save_explains_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        figure_style.save(plots.forest(_differences()), tmp_path / "file" / "x", "forest")
