"""Curves of training: every arm with its seeds as a band, the observation this project began with."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .figure_style import GREY, _arms, _axes, _few, _finish, _nothing, _order, _table, style
from .files import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

# Column → title of its panel. A loss on somebody's own questions is never drawn among the losses on the shared ones.
PANELS = {
    "loss": "training loss (each arm’s own targets)", "dev_answer_loss": "dev loss, answer tokens alone",
    "dev_translation_loss": "dev loss, translations", "eval_loss": "eval loss (on their own data)", "grad_norm": "gradient norm",
    "learning_rate": "learning rate"}  # fmt: skip
SMOOTHED = ("loss", "grad_norm")  # noisy from step to step; the others are drawn as recorded
LATE = "answer tokens alone: the end, magnified"
_STARTS = {
    "dev_answer_loss": "Answer-only dev loss at the end", "dev_translation_loss": "Translation dev loss at the end",
    "eval_loss": "Eval loss at the end, on their own data", "loss": "Training loss at the end (smoothed), own targets"}  # fmt: skip


@style()
def loss_curves(log: DataFrame, x: str = "tokens_seen", title: str | None = None, alt: str | None = None) -> Figure:
    """A panel for each recorded column of `PANELS`: losses (nats a token), gradient norm, learning rate.

    Columns: arm, step; optional: tokens_seen, seed, phase and those of `PANELS`. `x` is "tokens_seen" or "step"; a log
    without tokens is shown by step. Training loss and gradient norm are exponential means over a fifteenth of a run's
    points. An arm with several seeds is their mean with a band from the lowest to the highest, taken at the same steps, on
    the token axis interpolated between a run's points; each seed counts as far as it got. An arm that was not trained is a
    dashed level. The end of the answer-only loss has a panel of its own where it is too flat to be read. Raises
    `UserError` for another `x`.
    """
    if x not in ("tokens_seen", "step"):
        raise UserError(f"x={x!r}: choose 'tokens_seen' or 'step'.")
    frame = _frame(log)
    measured = frame[[*PANELS]].notna().any(axis=1)
    x = x if (measured & frame[x].notna()).any() else "step"
    shown = frame[frame[x].notna()]
    recorded = [column for column in PANELS if shown[column].notna().any()]
    if not recorded:
        return _nothing(title, alt)
    arms = _arms(frame)
    runs = {arm: _seeds(shown, arm) for arm in arms}
    panels = [(column, PANELS[column], runs) for column in recorded]
    if (late := _late(shown, x)) is not None:
        at = 1 + max(recorded.index(c) for c in ("dev_answer_loss", "dev_translation_loss") if c in recorded)
        panels.insert(at, ("dev_answer_loss", LATE, {arm: _seeds(late, arm) for arm in arms}))
    rows, columns = math.ceil(len(panels) / 2), min(2, len(panels))
    figure, axes = _axes(1.3 + 1.8 * rows, rows, columns, sharex=True, squeeze=False)
    handles: dict[str, Any] = {}
    for ax, (column, name, each) in zip(axes.flat, panels, strict=False):
        ax.set_title(name)
        bands = {arm: band for arm in arms if (band := _band(each[arm], x, column)) is not None}
        for number, (arm, band) in enumerate(bands.items()):
            line = _curve(ax, column, arm, band, arms[arm], number, len(bands), any(_trained(run) for run in runs[arm]))
            if arm not in handles or line.get_marker() not in ("", "None", None):
                handles[arm] = line
        if column in ("grad_norm", "learning_rate"):
            ax.set_ylim(bottom=0)
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4))
        ax.grid(axis="y")
    spare = axes.flat[-1] if len(panels) % 2 and rows > 1 else None
    _ticks(axes[-1] if spare is None else axes[-1, :1], "tokens seen" if x == "tokens_seen" else "optimizer step")
    if spare is not None:
        axes[-2, 1].tick_params(labelbottom=True)  # its ticks are enough, and the rows stay closer
    note = _note([len(seeds) for arm, seeds in runs.items() if arm in handles])
    absent = [arm for arm in arms if arm not in handles and measured[frame["arm"] == arm].any()]
    notes = [text for text in (note, absent and f"no token counts: {', '.join(absent)}") if text]
    _key(figure, spare, {arm: handles[arm] for arm in arms if arm in handles}, "\n".join(notes))
    # By step, where the seeds end together; on the token axis they do not quite.
    finals = {c: {a: band["mean"] for a in arms if (band := _band(runs[a], "step", c)) is not None} for c in recorded if c in _STARTS}
    ends = {c: {a: (mean.iloc[0], mean.iloc[-1]) for a, mean in of.items()} for c, of in finals.items() if of}
    measure = next((column for column in _STARTS if column in ends), None)
    last = _few({arm: pair[1] for arm, pair in ends.get(measure, {}).items()}, ".2f", lowest=True)
    finding = f"{_STARTS[measure]}{' (means of seeds)' if note else ''}: {last}" if measure else "Learning rate and gradient norm"
    words = [f"{PANELS[c]}: " + ", ".join(f"{a} from {b:.2f} to {e:.2f}" for a, (b, e) in of.items()) for c, of in ends.items()]
    words += [PANELS[c] for c in recorded if c not in ends]
    return _finish(figure, title or finding, alt or "; ".join(["Curves of training", *notes, *words]) + ".")


@style()
def seed_observation(log: DataFrame, title: str | None = None, alt: str | None = None) -> Figure:
    """“The training loss got slightly worse with Reasoning”: the two losses of `plain` and the reasoned arms side by side.

    Left the training loss of the question phase (of all steps where no phase is recorded; smoothed over a sixth), right
    the answer-only dev loss on the shared questions, both in nats a token on one scale. Columns as in `loss_curves`;
    optional: target_tokens_seen. The title holds the numbers of `observation`, and raises its errors.
    """
    frame = _frame(log)
    if frame["loss"].isna().all():
        return _nothing(title, alt)
    found = observation(log)
    looks = _arms(frame)
    runs = {arm: [_questions(run) for run in _seeds(frame, arm)] for arm in ("plain", *_reasoned(looks))}
    figure, axes = _axes(3.7 + 0.2 * len(runs), 1, 2, sharex=True, sharey=True)
    note = _note([len(seeds) for seeds in runs.values()])
    last, words = found["last_steps"], [note] if note else []
    sides = (("loss", "training loss, each arm’s own targets", f"mean of the last {last} steps"),
             ("dev_answer_loss", "dev loss, the same answer tokens", "at the end"))  # fmt: skip
    for ax, (column, name, when) in zip(axes, sides, strict=True):
        ax.set_title(name)
        ax.grid(axis="y")
        texts = []
        for number, (arm, seeds) in enumerate(runs.items()):
            values = [value for run in seeds if (value := _final(run, column, last)) is not None]
            if values:
                texts.append(f"{arm}  {sum(values) / len(values):.2f}")
                _curve(ax, column, texts[-1], _band(seeds, "step", column, share=6), looks[arm], number, len(runs))
        words.append(f"{name}, {when}: {', '.join(texts) or 'not recorded'}")
        if texts:
            ax.legend(title=when, loc="upper center", bbox_to_anchor=(0.5, -0.18), title_fontsize=9.5, fontsize=9.5)
        else:
            ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", va="center", color=GREY)
            ax.set_axis_off()
        ax.tick_params(labelleft=True)
    _ticks(axes, "optimizer step")
    if note:
        figure.supxlabel(note, fontsize=9.5)
    where = " of the question phase" if (frame["phase"] == "pairs").any() else ""
    return _finish(figure, title or _finding(found), alt or "; ".join([f"Two losses{where}", *words]) + ".")


def observation(log: DataFrame, arm: str | None = None, last: int = 20) -> dict[str, Any]:
    """The numbers behind `seed_observation`: an arm with Reasoning against `plain`, paired by seed.

    `arm` is by default reasoned-33, else the reasoned arm with the lowest share. Keys: arm, against, last_steps, `training_loss`
    (mean of the `last` steps of the question phase) and `dev_answer_loss` (the last one; None if not recorded), each
    {arm: mean over seeds, "plain": mean, "difference": arm − plain, "by_seed": {seed: difference}} in nats a token;
    `target_ratio`: target tokens of the arm per target token of plain in that phase, None if unknown; `ends_at`: the step
    that every seed of an arm has reached.
    Raises `UserError` when one of the arms is missing or they have no seed in common.
    """
    frame = _frame(log)
    names = _order(frame["arm"], ())
    reasoned = _reasoned(names)
    arm = arm or ("reasoned-33" if "reasoned-33" in reasoned else next(iter(reasoned), "reasoned-33"))
    for name in ("plain", arm):
        if name not in names:
            raise UserError(f"The arm {name!r} is not in the log, which has {', '.join(names) or 'no arm'}. Train both, or name them so.")
    runs = {name: {run["seed"].iloc[0]: _questions(run) for run in _seeds(frame, name)} for name in ("plain", arm)}

    def compare(column: str) -> dict[str, Any] | None:
        ends = {name: {s: _final(run, column, last) for s, run in seeds.items()} for name, seeds in runs.items()}
        both = [s for s, value in ends["plain"].items() if value is not None and ends[arm].get(s) is not None]
        if not both:
            return None
        mean = {name: sum(ends[name][s] for s in both) / len(both) for name in ("plain", arm)}
        return {**mean, "difference": mean[arm] - mean["plain"], "by_seed": {s: ends[arm][s] - ends["plain"][s] for s in both}}

    training = compare("loss")
    if training is None:
        raise UserError(f"'plain' and {arm!r} have no seed in common with a training loss.")
    ratios = []
    for s in training["by_seed"]:
        spans = [float(seen.max() - seen.min()) for name in ("plain", arm) if len(seen := runs[name][s]["target_tokens_seen"].dropna()) > 1]
        ratios += [spans[1] / spans[0]] if len(spans) == 2 and spans[0] else []
    ends_at = {name: int(min(runs[name][s].dropna(subset="loss")["step"].max() for s in training["by_seed"])) for name in runs}
    return {"arm": arm, "against": "plain", "last_steps": last, "training_loss": training, "dev_answer_loss": compare("dev_answer_loss"),
            "target_ratio": sum(ratios) / len(ratios) if ratios else None, "ends_at": ends_at}  # fmt: skip


def _frame(log: Any) -> DataFrame:
    numbers = ("step", "tokens_seen", "target_tokens_seen", *PANELS)
    frame = _table(log, ("arm",), numbers, seed="", phase="")
    if frame["step"].isna().all():
        frame["step"] = frame.groupby(["arm", "seed"]).cumcount() + 1.0
    return frame


def _seeds(frame: DataFrame, arm: str) -> list[DataFrame]:
    own = frame[frame["arm"] == arm]
    return [own[own["seed"] == seed] for seed in _order(own["seed"], ())]


def _questions(run: DataFrame) -> DataFrame:
    return run[run["phase"] == "questions"] if (run["phase"] == "questions").any() else run


def _trained(run: DataFrame) -> bool:
    return bool(run[["loss", "grad_norm", "learning_rate"]].notna().any(axis=None))


def _late(frame: DataFrame, x: str) -> DataFrame | None:
    """The rows of the answer-only loss in the question phase (phase not recorded: in the second half of `x`), if the
    whole fall leaves them less than a third of the height."""
    known = frame[frame["dev_answer_loss"].notna()]
    if known.empty:
        return None
    late = known[known["phase"] == "questions"] if (known["phase"] == "questions").any() else known[known[x] > frame[x].max() / 2]
    spans = [float(part["dev_answer_loss"].max() - part["dev_answer_loss"].min()) for part in (late, known)]
    return late if len(late) and spans[0] < spans[1] / 3 else None


def _reasoned(names: Any) -> list[str]:
    """The arms reasoned-P among `names`, by their share P."""
    found = {name: int(match[1]) for name in names if (match := re.fullmatch(r"reasoned-(\d+)", name))}
    return sorted(found, key=lambda name: found[name])


def _part(run: DataFrame, x: str, column: str) -> DataFrame:
    part = run[list(dict.fromkeys(("step", x, column)))].dropna(subset=[x, column])
    return part.sort_values(x, kind="stable").drop_duplicates(x, keep="last")


def _final(run: DataFrame, column: str, last: int) -> float | None:
    values = _part(run, "step", column)[column].tail(last if column == "loss" else 1)
    return float(values.mean()) if len(values) else None


def _band(runs: Sequence[DataFrame], x: str, column: str, share: int = 15) -> DataFrame | None:
    """Columns x, mean, low, high over the seeds and, of a single one, raw; smoothed over one part in `share`. None: no value."""
    import numpy as np
    import pandas as pd

    parts = [part for run in runs if len(part := _part(run, x, column))]
    if not parts:
        return None
    # Each seed is smoothed before the mean is taken: the band is of curves, not of noisy steps.
    span = [max(2, len(part) // share) for part in parts]
    curves = [p[column].ewm(span=s).mean() if column in SMOOTHED else p[column] for p, s in zip(parts, span, strict=True)]
    if len(parts) == 1:
        return pd.DataFrame({"x": parts[0][x], "mean": curves[0], "low": curves[0], "high": curves[0], "raw": parts[0][column]})
    grid = np.unique(pd.concat(parts).groupby("step")[x].mean()) if x != "step" else np.unique(np.concatenate([p[x] for p in parts]))
    near = 0.02 * np.ptp(grid) or 1.0
    values = []
    for part, curve in zip(parts, curves, strict=True):
        at = part[x].to_numpy()
        inside = np.clip(grid, at[0], at[-1])
        # Equally long runs differ a little in tokens: a curve counts to within 2 % of where it ends, and no further.
        values.append(np.where(np.abs(grid - inside) <= near, np.interp(inside, at, curve), np.nan))
    table = pd.DataFrame(values, columns=grid).dropna(axis=1, how="all")
    return pd.DataFrame({"x": table.columns, "mean": table.mean().values, "low": table.min().values, "high": table.max().values})


def _curve(ax: Any, column: str, label: str, band: DataFrame, look: dict[str, Any], number: int, crowd: int, trained: bool = True) -> Any:
    """Draw one arm, the `number`-th of `crowd`, into a panel; returns its line."""
    colour, faint = look["color"], {"color": look["color"], "linewidth": 0.8, "label": "_raw"}
    if column not in SMOOTHED and not trained and len(band) == 1:
        return ax.axhline(band["mean"].iloc[0], linestyle="--", color=colour, label=label)
    look = {**look, "markersize": 4.5 if crowd < 4 else 4, "linewidth": 1.8 if crowd < 4 else 1.4, "label": label}
    if column == "learning_rate":
        ax.plot(band["x"], band["mean"], alpha=0.3, **faint)
        # Dashes of one arm fall into the gaps of the others: equal schedules lie on each other.
        look |= {"marker": "", "linestyle": (-4 * number, (4, 4 * max(crowd - 1, 1)))}
        look |= {"linestyle": "-"} if crowd == 1 else {}
    elif (band["high"] > band["low"]).any():
        ax.fill_between(band["x"], band["low"], band["high"], color=colour, alpha=0.22 if crowd < 4 else 0.13, linewidth=0)
    elif column in SMOOTHED and len(band) > 1 and "raw" in band:
        ax.plot(band["x"], band["raw"], alpha=0.22 if crowd < 4 else 0.1, **faint)
    if column in SMOOTHED and len(band) > 1:
        stride = max(1, len(band) // 6)
        # A few marks, each arm's at other places, tell many lines apart without colour.
        look |= {"markevery": (stride * number // crowd, stride)} if crowd > 3 and column == "loss" else {"marker": ""}
    return ax.plot(band["x"], band["mean"], **look)[0]


def _note(counts: Sequence[int]) -> str:
    if max(counts) < 2:
        return ""
    seeds = f"{max(counts)} seeds" if min(counts) == max(counts) else f"up to {max(counts)} seeds"
    return f"line: mean of {seeds}; band: lowest to highest"


def _key(figure: Figure, spare: Any, handles: dict[str, Any], note: str) -> None:
    """The legend: in the spare panel when there is one, else under the figure."""
    options = {"handletextpad": 0.5, "columnspacing": 1.5, "title": note or None, "title_fontsize": 9.5}
    if spare is None:
        options |= {"loc": "outside lower center", "ncols": min(4, len(handles))}
    else:
        spare.set_axis_off()
        options |= {"loc": "center", "bbox_to_anchor": (0, 0, 1, 1), "bbox_transform": spare.transAxes}
        options["title"] = note.replace("; ", ";\n") or None
    figure.legend([*handles.values()], [*handles], **options)


def _finding(found: dict[str, Any]) -> str:
    arm, training, dev = found["arm"], found["training_loss"], found["dev_answer_loss"]

    def against(part: dict[str, Any], one: str = "") -> str:
        difference, seeds = part["difference"], list(part["by_seed"].values())
        level = abs(difference) < 0.005
        words = "level with plain" if level else f"{abs(difference):.2f} {'above' if difference > 0 else 'below'} plain"
        same = sum(value * difference > 0 for value in seeds)
        count = one if len(seeds) == 1 else f"; {len(seeds)} seeds" if level else f"; {same} of {len(seeds)} seeds"
        return f"{words} ({part[arm]:.2f}, {part['plain']:.2f}{count})"

    ratio = f", {found['target_ratio']:.1f}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}as many" if found["target_ratio"] else ""
    text = f"Training loss of {arm} ends {against(training, '; one seed')}, but over other tokens (rationales too{ratio}): not comparable. "
    if found["ends_at"][arm] != found["ends_at"]["plain"]:  # a run that goes on, or another recipe
        text = f"Not the same steps ({arm} {found['ends_at'][arm]}, plain {found['ends_at']['plain']}). {text}"
    return text + (f"Answer-only dev loss (same tokens): {against(dev)}" if dev else "The answer-only dev loss is not recorded")


def _ticks(axes: Sequence[Any], label: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    for ax in axes:
        ax.set_xlabel(label)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
