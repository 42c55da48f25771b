from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from test_plots import strict  # noqa: F401 (a fixture)

from helpers import curves, figure_style, plots
from helpers.curves import loss_curves, observation, seed_observation
from helpers.files import ROOT, UserError
from helpers.trainer_state import read_trainer_state

SEVEN = ("plain", "reasoned-20", "reasoned-33", "reasoned-67", "reasoned-100", "shuffled-33", "plain-token-matched")
EVALUATED = (0, 30, 60, 90, 120, 150)


def _log(arms=SEVEN, seeds=3, steps=150, questions=60, ragged=0):
    """Exact losses, no noise: an arm adds 0.1 a place, a seed 0.01 in training and 0.002 on dev; `ragged` more tokens a seed."""
    rows = []
    for (k, arm), seed in itertools.product(enumerate(arms), range(seeds)):
        for step in range(steps + 1):
            late = step > questions
            row = {"arm": arm, "seed": seed, "step": step, "phase": ("start", "pairs")[step > 0] if not late else "questions"}
            row["tokens_seen"] = step * (500 + ragged * seed)
            row["target_tokens_seen"] = 100 * step + (50 * k * (step - questions) if late else 0)
            if step:
                row |= {"loss": 1 + 0.1 * k + 0.01 * seed, "grad_norm": 3.0 + seed, "learning_rate": 5e-4 * (1 - step / steps)}
            if step in EVALUATED:
                dev = 1.6 + 0.01 * k + 0.002 * seed if late else 4.8
                row |= {"dev_answer_loss": dev, "dev_translation_loss": 2.3 - step / steps}
            rows.append(row)
    return pd.DataFrame(rows)


def _panels(figure):
    return {ax.get_title(loc="left"): ax for ax in figure.axes if ax.get_title(loc="left")}


def _line(ax, label):
    (line,) = [line for line in ax.lines if line.get_label() == label]
    return line


def _title(figure):
    return figure.get_suptitle().replace("\n", " ").replace("\xa0", " ")


def _limits(band):
    """Lowest and highest y of a filled band at each x."""
    points = pd.DataFrame(band.get_paths()[0].vertices, columns=["x", "y"])
    return points.groupby("x")["y"].agg(["min", "max"])


def _inside(figure):
    """Every visible text lies within the picture."""
    from matplotlib.text import Text

    width, height = figure.bbox.width, figure.bbox.height
    axis = {id(t) for ax in figure.axes for t in (*ax.get_xticklabels(), *ax.get_yticklabels())}
    for text in figure.findobj(Text):
        # Tick labels outside the limits exist without being drawn.
        if text.get_text() and text.get_visible() and id(text) not in axis:
            box = text.get_window_extent()
            assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, text.get_text()


# Curves of arms and seeds

def test_seven_arms_with_three_seeds():
    figure = loss_curves(_log())
    panels = _panels(figure)
    assert list(panels) == [curves.PANELS["loss"], curves.PANELS["dev_answer_loss"], curves.PANELS["dev_translation_loss"],
                            curves.LATE, curves.PANELS["grad_norm"], curves.PANELS["learning_rate"]]  # fmt: skip
    for name, ax in panels.items():
        assert [line.get_label() for line in ax.lines if line.get_label() != "_raw"] == list(figure_style._arms(_log())), name
    assert len(panels[curves.PANELS["loss"]].collections) == 7  # a band an arm
    assert [t.get_text() for t in figure.legends[0].get_texts()] == list(figure_style._arms(_log()))
    assert figure.legends[0].get_title().get_text() == "line: mean of 3 seeds; band: lowest to highest"
    assert "band: lowest to highest" in figure_style.alt_text(figure) and "nan" not in figure_style.alt_text(figure)
    assert _title(figure).startswith("Answer-only dev loss at the end (means of seeds): plain 1.60, reasoned-33 1.62")
    _inside(figure)


def test_the_line_is_the_mean_and_the_band_goes_from_lowest_to_highest():
    figure = loss_curves(_log(("plain", "reasoned-33")), "step")
    ax = _panels(figure)[curves.PANELS["loss"]]
    line = _line(ax, "reasoned-33")
    assert np.array_equal(line.get_xdata(), np.arange(1, 151))
    assert np.allclose(line.get_ydata(), 1.11)  # the mean of 1.10, 1.11 and 1.12
    limits = _limits(ax.collections[1])
    assert np.allclose(limits["min"], 1.10) and np.allclose(limits["max"], 1.12)
    norm = _panels(figure)[curves.PANELS["grad_norm"]]
    assert np.allclose(_line(norm, "plain").get_ydata(), 4) and np.allclose(_limits(norm.collections[0]).iloc[9], [3, 5])


def test_each_seed_is_smoothed_before_the_mean_and_dev_losses_are_not():
    log = _log(("plain",), seeds=2)
    log.loc[(log["seed"] == 1) & (log["step"] == 100), "loss"] = 9.0
    figure = loss_curves(log, "step")
    ax = _panels(figure)[curves.PANELS["loss"]]
    each = [run["loss"].dropna().ewm(span=10).mean().to_numpy() for _, run in log.groupby("seed")]
    assert np.allclose(_line(ax, "plain").get_ydata(), np.mean(each, axis=0))
    assert np.allclose(_limits(ax.collections[0])["max"], np.max(each, axis=0))
    dev = _line(_panels(figure)[curves.PANELS["dev_answer_loss"]], "plain")
    assert dev.get_xdata().tolist() == list(EVALUATED) and np.allclose(dev.get_ydata(), [4.8, 4.8, 4.8, 1.601, 1.601, 1.601])


def test_on_tokens_seeds_are_interpolated_at_common_places():
    # Two seeds on one straight line of loss against tokens, recorded at other places: the mean is that line, the band has no width.
    rows = [{"arm": "plain", "seed": seed, "step": step, "tokens_seen": step * (1000 + 8 * seed),
             "dev_translation_loss": 3 - step * (1000 + 8 * seed) / 1e5} for seed in (0, 1) for step in range(0, 101, 10)]  # fmt: skip
    ax = loss_curves(pd.DataFrame(rows)).axes[0]
    x, y = _line(ax, "plain").get_data()
    assert np.allclose(x, np.arange(0, 101, 10) * 1004)
    assert np.allclose(y[:-1], 3 - x[:-1] / 1e5) and y[-1] == pytest.approx(3 - 100400 / 1e5, abs=0.003)
    for collection in ax.collections:  # only past the end of the shorter run, by less than 1 % of the axis
        limits = _limits(collection)
        assert (limits["max"] - limits["min"])[:-1].max() < 1e-9


def test_a_seed_counts_as_far_as_it_got():
    log = _log(("plain",), seeds=3)
    line = _line(loss_curves(log[(log["seed"] < 2) | (log["step"] <= 40)], "step").axes[0], "plain")
    assert line.get_ydata()[:40] == pytest.approx(1.01) and line.get_ydata()[50:] == pytest.approx(1.005)
    assert line.get_xdata()[-1] == 150


def test_one_seed_is_drawn_raw_and_smoothed_without_a_band():
    figure = loss_curves(_log(("plain", "reasoned-33"), seeds=1))
    ax = _panels(figure)[curves.PANELS["loss"]]
    assert [line.get_label() for line in ax.lines] == ["_raw", "plain", "_raw", "reasoned-33"]
    assert not any(len(ax.collections) for ax in figure.axes)
    assert figure.legends[0].get_title().get_text() == "" and "seed" not in _title(figure)


def test_arms_may_have_different_numbers_of_seeds():
    log = _log(("plain", "reasoned-33"))
    figure = loss_curves(log[(log["arm"] == "plain") | (log["seed"] == 0)])
    assert len(figure.axes[0].collections) == 1
    assert figure.legends[0].get_title().get_text().startswith("line: mean of up to 3 seeds")


def test_the_axis_is_chosen_and_says_what_it_cannot_show():
    log = _log(("plain",), seeds=1)
    labels = [{ax.get_xlabel() for ax in figure.axes} - {""} for figure in (loss_curves(log), loss_curves(log, "step"), loss_curves(log.drop(columns="tokens_seen")))]
    assert labels == [{"tokens seen"}, {"optimizer step"}, {"optimizer step"}]
    with pytest.raises(UserError, match="tokens_seen"):
        loss_curves(log, "epoch")
    both = pd.concat([log, log.assign(arm="theirs", tokens_seen=math.nan)])
    figure = loss_curves(both)
    assert "no token counts: theirs" in figure.legends[0].get_title().get_text()
    assert "no token counts: theirs" in figure_style.alt_text(figure)
    assert "theirs" in [t.get_text() for t in loss_curves(both, "step").legends[0].get_texts()]


def test_the_end_of_the_answer_only_loss_is_magnified_only_where_it_is_flat():
    ax = _panels(loss_curves(_log(("plain", "reasoned-33")), "step"))[curves.LATE]
    assert _line(ax, "plain").get_xdata().tolist() == [90, 120, 150] and ax.get_ylim()[1] < 2
    steady = _log(("plain",)).assign(dev_answer_loss=lambda f: np.where(f["step"].isin(EVALUATED), 5 - f["step"] / 50, math.nan))
    assert curves.LATE not in _panels(loss_curves(steady))


def test_an_untrained_arm_is_a_level_and_equal_schedules_are_dashed_in_turn():
    base = pd.DataFrame([{"arm": "base", "step": 0, "tokens_seen": 0, "dev_answer_loss": 4.8}])
    panels = _panels(loss_curves(pd.concat([base, _log(("plain", "reasoned-33"))])))
    level = _line(panels[curves.PANELS["dev_answer_loss"]], "base")
    assert level.get_linestyle() == "--" and set(level.get_ydata()) == {4.8}
    assert [line.get_label() for line in panels[curves.LATE].lines] == ["plain", "reasoned-33"]
    dashes = [_line(panels[curves.PANELS["learning_rate"]], arm)._unscaled_dash_pattern[0] for arm in ("plain", "reasoned-33")]
    assert len(set(dashes)) == 2


def test_a_csv_gives_the_same_picture(tmp_path):
    log = _log(("plain", "reasoned-33"))
    log.to_csv(tmp_path / "log.csv", index=False)
    one, two = loss_curves(log), loss_curves(pd.read_csv(tmp_path / "log.csv"))
    assert one.get_suptitle() == two.get_suptitle() and figure_style.alt_text(one) == figure_style.alt_text(two)
    for a, b in zip(one.axes, two.axes, strict=True):
        assert all(np.allclose(s.get_xydata(), t.get_xydata()) for s, t in zip(a.lines, b.lines, strict=True))


def test_plots_offers_the_same_function_and_import_is_light():
    assert plots.loss_curves is loss_curves
    code = "import sys; import helpers.curves; print({'matplotlib', 'pandas', 'numpy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "set()"


# Machado, Oliveira & Fernandes (2009), severity 1.0, on linear RGB.
VISION = {
    "usual": np.eye(3),
    "protan": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deutan": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "tritan": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}


def _lab(colour, matrix):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.clip(matrix @ np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4), 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISION)
def test_seven_arms_are_apart_for_every_colour_vision(vision):
    looks = figure_style._arms(pd.DataFrame({"arm": SEVEN}))
    assert len({look["marker"] for look in looks.values()}) == 7
    labs = {arm: _lab(look["color"], VISION[vision]) for arm, look in looks.items()}
    distance = {pair: np.linalg.norm(labs[pair[0]] - labs[pair[1]]) for pair in itertools.combinations(labs, 2)}
    assert min(distance.values()) > 15, min(distance, key=distance.get)  # a just noticeable difference is about 2.3


# The observation this project began with

def test_observation_pairs_by_seed_and_means_the_last_steps():
    log = _log(("plain", "reasoned-33"))
    log.loc[(log["arm"] == "plain") & (log["step"] <= 130) & log["loss"].notna(), "loss"] = 9.0
    found = observation(log)
    assert (found["arm"], found["against"], found["last_steps"]) == ("reasoned-33", "plain", 20)
    training, dev = found["training_loss"], found["dev_answer_loss"]
    assert (training["plain"], training["reasoned-33"]) == (pytest.approx(1.01), pytest.approx(1.11))
    assert training["difference"] == pytest.approx(0.1) and training["by_seed"] == pytest.approx({"0": 0.1, "1": 0.1, "2": 0.1})
    assert dev["difference"] == pytest.approx(0.01) and dev["by_seed"] == pytest.approx({"0": 0.01, "1": 0.01, "2": 0.01})
    assert found["target_ratio"] == pytest.approx(1.5) and found["ends_at"] == {"plain": 150, "reasoned-33": 150}
    json.dumps(found)


def test_observation_leaves_out_seeds_without_a_partner_and_names_what_is_missing():
    log = _log(("plain", "reasoned-33", "reasoned-100"))
    found = observation(log[(log["arm"] != "reasoned-33") | (log["seed"] == 2)])
    assert found["training_loss"]["by_seed"] == pytest.approx({"2": 0.1}) and found["training_loss"]["plain"] == pytest.approx(1.02)
    assert observation(log[log["arm"] != "reasoned-33"])["arm"] == "reasoned-100"
    assert observation(log, "reasoned-100")["training_loss"]["difference"] == pytest.approx(0.2)
    for arms, name in ((["plain"], "reasoned-33"), (["reasoned-33"], "plain")):
        with pytest.raises(UserError, match=f"'{name}' is not in the log"):
            observation(log[log["arm"].isin(arms)])
    with pytest.raises(UserError, match="no seed in common"):
        observation(log[(log["arm"] == "plain") == (log["seed"] == 0)])


def test_seed_observation_shows_both_losses_of_the_question_phase():
    figure = seed_observation(_log())
    left, right = figure.axes
    arms = ["plain", "reasoned-20", "reasoned-33", "reasoned-67", "reasoned-100"]
    assert [t.get_text() for t in left.get_legend().get_texts()] == [f"{a}  {1.01 + 0.1 * k:.2f}" for k, a in enumerate(arms)]
    assert [t.get_text() for t in right.get_legend().get_texts()] == [f"{a}  {1.602 + 0.01 * k:.2f}" for k, a in enumerate(arms)]
    assert left.get_legend().get_title().get_text() == "mean of the last 20 steps"
    line = _line(left, "reasoned-33  1.21")
    assert line.get_xdata().tolist() == list(range(61, 151)) and np.allclose(line.get_ydata(), 1.21)
    assert line.get_color() == figure_style.ARM_COLOURS["reasoned-33"]
    assert _line(right, "reasoned-33  1.62").get_xdata().tolist() == [90, 120, 150]
    limits = _limits(left.collections[2])
    assert np.allclose(limits["min"], 1.2) and np.allclose(limits["max"], 1.22)
    assert left.get_ylim() == right.get_ylim()  # a difference looks as large in both
    assert figure.get_supxlabel() == "line: mean of 3 seeds; band: lowest to highest"
    title = _title(figure)
    assert "Training loss of reasoned-33 ends 0.20 above plain (1.21, 1.01; 3 of 3 seeds), but over other tokens" in title
    assert "rationales too, 2.0 × as many): not comparable." in title
    assert title.endswith("Answer-only dev loss (same tokens): 0.02 above plain (1.62, 1.60; 3 of 3 seeds)")
    _inside(figure)


def test_the_title_follows_the_sign_and_says_what_is_missing():
    log = _log(("reasoned-33", "plain"), seeds=1).drop(columns=["seed", "target_tokens_seen"])
    title = _title(seed_observation(log))
    assert "ends 0.10 below plain (1.00, 1.10; one seed)" in title and "as many" not in title
    level = log.assign(loss=log["loss"].where(log["loss"].isna(), 1.0))
    assert "level with plain (1.00, 1.00; one seed)" in _title(seed_observation(level))
    bare = seed_observation(log[["arm", "step", "loss"]])
    assert _title(bare).endswith("The answer-only dev loss is not recorded")
    assert [t.get_text() for t in bare.axes[1].texts] == ["not recorded"] and bare.axes[0].lines[1].get_xdata().tolist()[0] == 1
    assert _title(seed_observation(log[(log["arm"] == "plain") | (log["step"] < 99)])).startswith("Not the same steps (reasoned-33 98, plain 150).")
    assert "no seed" not in title and "Nothing measured" in _title(seed_observation([]))


# Runs of other people

def _state(**changes):
    history = [{"epoch": n / 3, "grad_norm": 2.0 / n, "learning_rate": 1e-4 / n, "loss": 3.0 / n, "num_input_tokens_seen": 1000 * n, "step": 10 * n}
               for n in (1, 2, 3)]  # fmt: skip
    history.insert(2, {"epoch": 2 / 3, "eval_loss": 1.7, "eval_runtime": 2.5, "num_input_tokens_seen": 2000, "step": 20})
    history.append({"epoch": 1.0, "total_flos": 1e12, "train_loss": 1.8, "train_runtime": 60.0, "step": 30})
    return {"global_step": 30, "log_history": history, **changes}


def _write(path, state):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(state if isinstance(state, str) else json.dumps(state), encoding="utf-8")
    return path


def _silent(message):
    raise AssertionError(message)


def test_trainer_state_becomes_a_row_a_step(tmp_path):
    frame = read_trainer_state(_write(tmp_path / "my run" / "trainer_state.json", _state()), say=_silent)
    assert list(frame.columns) == ["arm", "step", "epoch", "tokens_seen", "loss", "learning_rate", "grad_norm", "eval_loss"]
    assert frame["arm"].tolist() == ["my run"] * 3 and frame["step"].tolist() == [10, 20, 30]
    assert frame["loss"].tolist() == [3.0, 1.5, 1.0] and frame["tokens_seen"].tolist() == [1000, 2000, 3000]
    assert frame["eval_loss"].isna().tolist() == [True, False, True] and frame["eval_loss"][1] == 1.7
    figure = loss_curves(frame)
    panels = _panels(figure)
    assert list(panels) == [curves.PANELS[c] for c in ("loss", "eval_loss", "grad_norm", "learning_rate")]
    assert _line(panels["eval loss (on their own data)"], "my run").get_xydata().tolist() == [[2000, 1.7]]
    assert _title(figure) == "Eval loss at the end, on their own data: my run 1.70"


def test_a_state_that_transformers_wrote(tmp_path):
    from transformers import TrainerState

    state = TrainerState(global_step=20, max_steps=20)
    state.log_history = [{"loss": 2.5, "grad_norm": float("nan"), "learning_rate": 1e-4, "epoch": 0.5, "num_tokens": 640.0, "step": 10},
                         {"loss": 2.0, "grad_norm": 1.5, "learning_rate": 0.0, "epoch": 1.0, "num_tokens": 1280.0, "step": 20}]  # fmt: skip
    path = tmp_path / "out" / "checkpoint-20" / "trainer_state.json"
    path.parent.mkdir(parents=True)
    state.save_to_json(str(path))
    said = []
    frame = read_trainer_state(tmp_path / "out", say=said.append)
    assert frame["arm"].tolist() == ["out", "out"] and frame["loss"].tolist() == [2.5, 2.0] and frame["tokens_seen"].tolist() == [640, 1280]
    assert math.isnan(frame["grad_norm"][0]) and frame["eval_loss"].isna().all()
    assert said == [f"{path}: grad_norm is not a finite number at 1 of 2 steps (10); left as gaps."]


def test_folders_lead_to_the_newest_state_by_number(tmp_path):
    for step in (200, 1000):
        history = [{"loss": 1.0, "step": step}]
        _write(tmp_path / "out" / f"checkpoint-{step}" / "trainer_state.json", {"log_history": history})
    _write(tmp_path / "out" / "checkpoint-best" / "trainer_state.json", "{}")
    assert read_trainer_state(tmp_path / "out")["step"].tolist() == [1000]
    older = read_trainer_state(tmp_path / "out" / "checkpoint-200")
    assert older["step"].tolist() == [200] and older["arm"].tolist() == ["out"]
    assert read_trainer_state(tmp_path / "out", arm="theirs")["arm"].tolist() == ["theirs"]
    _write(tmp_path / "out" / "trainer_state.json", _state())
    assert read_trainer_state(str(tmp_path / "out"))["step"].tolist() == [10, 20, 30]


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
def test_what_is_not_a_finite_number_is_a_gap_and_said(tmp_path, value):
    state = _state()
    state["log_history"][1]["loss"] = value
    said = []
    frame = read_trainer_state(_write(tmp_path / "trainer_state.json", state), "run", say=said.append)
    assert frame["loss"].isna().tolist() == [False, True, False] and frame["eval_loss"][1] == 1.7
    assert len(said) == 1 and "loss is not a finite number at 1 of 3 steps (20)" in said[0]


@pytest.mark.parametrize(("state", "message"), [
    ("{'log_history': []}", "not valid JSON"),
    ("", "not valid JSON"),
    ("[]", "'log_history': expected a list of log entries, found NoneType"),
    ({"log_history": {"loss": 1}}, "'log_history': expected a list of log entries, found dict"),
    ({"log_history": []}, "expected entries with 'loss' or 'eval_loss', found none in 0"),
    ({"log_history": [{"step": 5, "train_loss": 1.0}]}, "expected entries with 'loss' or 'eval_loss', found none in 1"),
    ({"log_history": [{"loss": 1.0, "step": 1}, 7]}, "log_history entry 2: expected an object, found 7"),
    ({"log_history": [{"loss": 1.0, "step": 1}, {"loss": "2.0", "step": 2}]}, "entry 2, field 'loss': expected a number, found \"2.0\""),
    ({"log_history": [{"loss": True, "step": 1}]}, "entry 1, field 'loss': expected a number, found true"),
    ({"log_history": [{"loss": 1.0, "eval_loss": [1], "step": 1}]}, "field 'eval_loss': expected a number, found [1]"),
    ({"log_history": [{"loss": 1.0}]}, "entry 1, field 'step': expected a whole number from 0, found null"),
    ({"log_history": [{"loss": 1.0, "step": 1.5}]}, "entry 1, field 'step': expected a whole number from 0, found 1.5"),
])  # fmt: skip
def test_malformed_states_name_file_entry_and_field(tmp_path, state, message):
    path = _write(tmp_path / "trainer_state.json", state)
    with pytest.raises(UserError) as caught:
        read_trainer_state(path)
    assert message in str(caught.value) and str(caught.value).startswith(str(path))


def test_missing_states_name_the_place(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file"):
        read_trainer_state(tmp_path / "nowhere")
    with pytest.raises(UserError, match="neither trainer_state.json nor a checkpoint-N folder"):
        read_trainer_state(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not valid JSON"):
        read_trainer_state(tmp_path / "binary")
