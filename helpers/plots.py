"""The figures of training and evaluation (of the data: data_plots); each takes tables or plain rows, is titled with its finding and
carries alt text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .curves import loss_curves as loss_curves  # every figure of the report in one place
from .figure_style import (
    BLUE,
    GREY,
    INK,
    LINE,
    STAGES,
    STEP_COLOURS,
    VERMILLION,
    _arms,
    _axes,
    _colours,
    _errors,
    _few,
    _finish,
    _ink,
    _legend,
    _nothing,
    _order,
    _rows,
    _sizes,
    _table,
    _wrap,
    style,
)  # fmt: skip

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


def _grouped(ax: Any, frame: DataFrame, places: Sequence[str], column: str, upright: bool) -> list[str]:
    arms = _arms(frame)
    step = min(0.16, 0.72 / max(len(arms), 1))
    words = []
    for number, (arm, look) in enumerate(arms.items()):
        part = frame[frame["arm"] == arm].drop_duplicates(column).set_index(column).reindex(places)
        at = [i + (number - (len(arms) - 1) / 2) * step for i in range(len(places))]
        options = {"fmt": look["marker"], "color": look["color"], "markersize": 6.5, "elinewidth": 1.6, "label": arm}
        errors = _errors(part)
        if upright:
            drawn = ax.errorbar(at, part["value"], yerr=errors, **options)
        else:
            drawn = ax.errorbar(part["value"], at, xerr=errors, **options)
        # A mark at 0 lies on the edge.
        drawn.lines[0].set_clip_on(False)
        words += [f"{arm}, {p}: {v:.1f} %" for p, v in part["value"].items() if v == v]
    highest = max(frame["value"].max(), frame["high"].max() if frame["high"].notna().any() else 0)
    (ax.set_ylim if upright else ax.set_xlim)(0, min(max(highest * 1.1, 5), 102))
    ax.tick_params(axis="x" if upright else "y", pad=8)
    return words


def _caption(frame: DataFrame, measure: str) -> str:
    extra = ["95 % interval"] if frame[["low", "high"]].notna().all(axis=1).any() else []
    extra += [_sizes(frame["n"])] if frame["n"].notna().any() else []
    return f"{measure} ({'; '.join(extra)})" if extra else measure


@style()
def stages(frame: DataFrame, title: str | None = None, alt: str | None = None) -> Figure:
    """Accuracy of each arm at each stage (S2 to S5) with its 95 % interval.

    Columns: stage, value (percent, 0 to 100); optional: arm, low, high (percent), n (questions).
    """
    frame = _table(frame, ("stage", "value"), ("value", "low", "high", "n"), arm="all").dropna(subset="value")
    if frame.empty:
        return _nothing(title, alt)
    places = _order(frame["stage"], STAGES)
    figure, ax = _axes()
    words = _grouped(ax, frame, places, "stage", upright=True)
    ax.set_xticks(range(len(places)), [f"{p}: {STAGES[p]}" if p in STAGES else _wrap(p, 18) for p in places])
    ax.set_xlim(-0.5, len(places) - 0.5)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y")
    ax.set_ylabel("accuracy, %")
    ax.set_title(_caption(frame, "accuracy").removeprefix("accuracy").strip(" ()"), fontsize=9.5, color="#555555")
    _legend(figure, *ax.get_legend_handles_labels())
    stage = "S4" if "S4" in places else places[-1]
    here = frame[frame["stage"] == stage]
    finding = f"Accuracy at {stage}" + (f" ({STAGES[stage]})" if stage in STAGES else "") + ", %: "
    finding += _few(dict(zip(here["arm"], here["value"], strict=True)), ".1f")
    return _finish(figure, title or finding, alt or f"Accuracy with 95 % intervals. {'; '.join(words)}.")


@style()
def translation(frame: DataFrame, title: str | None = None, alt: str | None = None) -> Figure:
    """chrF++ of each system with its 95 % interval, the highest first and highlighted.

    Columns: system, value (chrF++, 0 to 100); optional: low, high, n (sentences).
    """
    frame = _table(frame, ("system", "value"), ("value", "low", "high", "n")).dropna(subset="value")
    if frame.empty:
        return _nothing(title, alt)
    frame = frame.sort_values("value", ascending=False, kind="stable").reset_index(drop=True)
    figure, ax = _rows(list(frame["system"]), _caption(frame, "chrF++"))
    for at in range(len(frame)):
        part = frame.loc[[at]]
        ax.errorbar(part["value"], [at], xerr=_errors(part), fmt="o", color=GREY if at else VERMILLION, markersize=7)
    _numbers(ax, frame, "{:.1f}", first=VERMILLION)
    ax.get_yticklabels()[0].set(color=VERMILLION)
    top = frame.iloc[0]
    finding = f"Highest chrF++: {top['system']}, {top['value']:.1f}"
    if len(frame) > 1:
        finding += f" (next: {frame.loc[1, 'system']}, {frame.loc[1, 'value']:.1f})"
    words = "; ".join(f"{s} {v:.1f}" for s, v in zip(frame["system"], frame["value"], strict=True))
    return _finish(figure, title or finding, alt or f"chrF++ of each system, highest first: {words}.")


def _numbers(ax: Any, frame: DataFrame, form: str, first: str = INK) -> list[str]:
    texts = []
    for at, row in enumerate(frame.itertuples()):
        known = row.low == row.low and row.high == row.high
        text = form.format(row.value) + (f" [{form.format(row.low)}, {form.format(row.high)}]" if known else "")
        texts.append(text.replace("-", "\N{MINUS SIGN}"))
        where = {"transform": ax.get_yaxis_transform(), "va": "center", "fontsize": 10}
        size = f"  n = {row.n:,.0f}" if row.n == row.n and frame["n"].nunique() > 1 else ""
        if size and "seeds" in frame and frame["seeds"].nunique() > 1:
            size = f"\n{size.strip()}, {row.seeds:.0f} seed{'s' * (row.seeds != 1)}"
        ax.text(1.02, at, texts[-1] + size, color=INK if at else first, **where)
    return texts


@style()
def forest(frame: DataFrame, unit: str = "percentage points", title: str | None = None,
           alt: str | None = None) -> Figure:  # fmt: skip
    """Paired differences with 95 % intervals against a zero line; blue above, vermillion below, grey across zero.

    Columns: label, value (in `unit`); optional: low, high, n (pairs), seeds (that the interval is over; one: over the pairs alone), outcome
    ("improves", "harms" or another: the colour then, because a correction for several comparisons can differ from the interval).
    """
    frame = _table(frame, ("label", "value"), ("value", "low", "high", "n", "seeds"), outcome="")
    frame = frame.dropna(subset="value").reset_index(drop=True)
    if frame.empty:
        return _nothing(title, alt)
    lines = 1 + (frame["n"].nunique() > 1 and frame["seeds"].nunique() > 1)
    figure, ax = _rows(list(frame["label"]), _caption(frame, f"difference, {unit}"), each=0.3 if lines == 1 else 0.44, columns=34)
    ax.axvline(0, color=INK, linewidth=1)
    corrected = bool((frame["outcome"] != "").any())
    above, below = (frame["outcome"] == "improves", frame["outcome"] == "harms") if corrected else (frame["low"] > 0, frame["high"] < 0)
    for at in range(len(frame)):
        part = frame.loc[[at]]
        colour = BLUE if above[at] else VERMILLION if below[at] else GREY
        ax.errorbar(part["value"], [at], xerr=_errors(part), fmt="s", color=colour, markersize=7)
    widest = frame[["value", "low", "high"]].abs().max(axis=None) or 1.0
    ax.set_xlim(min(-0.15 * widest, frame[["value", "low"]].min(axis=None) * 1.1),
                max(0.15 * widest, frame[["value", "high"]].max(axis=None) * 1.1))  # fmt: skip
    texts = _numbers(ax, frame, "{:+.1f}")
    clear = list(frame["label"][above | below])
    if len(frame) == 1:
        finding = f"{frame['label'][0]}: {texts[0]} {unit}"
        finding += "" if frame["low"].isna()[0] else f", {'' if clear else 'not '}clear of zero"
    elif frame["low"].isna().all():
        finding = f"Largest difference: {frame['label'][frame['value'].abs().idxmax()]}"
    else:
        verb = ("holds" if len(clear) < 2 else "hold") if corrected else "is" if len(clear) < 2 else "are"
        finding = f"{len(clear) or 'None'} of {len(frame)} differences {verb} {'after correction' if corrected else 'clear of zero'}"
        finding += f": {', '.join(clear)}" if 0 < len(clear) <= 2 else ""
        if frame["seeds"].nunique() > 1:
            each = (above | below).groupby(frame["seeds"]).agg(["sum", "size"]).sort_index(ascending=False)
            finding += f" ({', '.join(f'{k} of {m} with {n:.0f} seed' + 's' * (n != 1) for n, k, m in each.itertuples())})"
    words = "; ".join(f"{a} {t}" for a, t in zip(frame["label"], texts, strict=True))
    return _finish(figure, title or finding, alt or f"Forest plot of paired differences in {unit}: {words}.")


@style()
def broken_steps(frame: DataFrame, title: str | None = None, alt: str | None = None) -> Figure:
    """What became of the one-call task (S4), as shares of each arm's questions: right, or the step that broke.

    Columns: step (right, chaining, translation, knowledge-reasoning), n (questions); optional: arm.
    """
    frame = _table(frame, ("step", "n"), ("n",), arm="all").dropna(subset="n")
    frame["step"] = frame["step"].str.replace("/", "-").str.replace(" ", "")
    table = frame.pivot_table(index="arm", columns="step", values="n", aggfunc="sum", fill_value=0)
    table = table[table.sum(axis=1) > 0] if len(table) else table
    if table.empty:
        return _nothing(title, alt)
    table = table.loc[list(_arms(frame[frame["arm"].isin(table.index)]))]
    share = table.div(table.sum(axis=1), axis=0) * 100
    labels = [f"{arm} (n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n:,.0f})" for arm, n in table.sum(axis=1).items()]
    figure, ax = _rows(labels, "share of questions, %", each=0.44, columns=21)
    left = share.iloc[:, 0] * 0.0
    for step, colour in _colours(table.columns, STEP_COLOURS).items():
        look = {"color": colour, "label": step.replace("-", "/"), "edgecolor": "white", "linewidth": 0.8}
        bars = ax.barh(range(len(table)), share[step], left=left, height=0.7, **look)
        shown = [f"{v:.0f}" if v >= 4 else "" for v in share[step]]
        ax.bar_label(bars, shown, label_type="center", color=_ink(colour), fontsize=10)
        left = left + share[step]
    ax.set_xlim(0, 100)
    ax.grid(False)
    _legend(figure, *ax.get_legend_handles_labels())
    misses = table.drop(columns="right", errors="ignore").sum()
    worst = misses.idxmax().replace("-", "/") if misses.sum() else ""
    finding = "Every answer in one call is right"
    if worst:
        part = misses.max() / misses.sum() * 100
        finding = f"Of the {misses.sum():,.0f} wrong answers in one call, {part:.0f} % break at {worst}"
    words = "; ".join(f"{a}: " + ", ".join(f"{s} {v:.0f} %" for s, v in row.items()) for a, row in share.iterrows())
    return _finish(figure, title or finding, alt or f"Stacked bars of outcomes of the one-call task. {words}.")


@style()
def by_category(frame: DataFrame, title: str | None = None, alt: str | None = None) -> Figure:
    """Accuracy for each category and arm with its 95 % interval.

    Columns: category, value (percent, 0 to 100); optional: arm, low, high (percent), n (questions).
    """
    frame = _table(frame, ("category", "value"), ("value", "low", "high", "n"), arm="all").dropna(subset="value")
    if frame.empty:
        return _nothing(title, alt)
    means = frame.groupby("category", sort=False)["value"].mean().sort_values(ascending=False, kind="stable")
    places = list(means.index)
    arms = list(_arms(frame))
    figure, ax = _rows(places, _caption(frame, "accuracy, %"), each=max(0.42, 0.17 * len(arms)))
    words = _grouped(ax, frame, places, "category", upright=False)
    for edge in range(1, len(places)):
        ax.axhline(edge - 0.5, color=LINE, linewidth=0.8)
    _legend(figure, *ax.get_legend_handles_labels())
    table = frame.pivot_table(index="category", columns="arm", values="value", aggfunc="first")
    gains = table.sub(table[arms[0]], axis=0).drop(columns=arms[0]).unstack().dropna()
    finding = f"Highest: {places[0]}, {means.iloc[0]:.1f} %; lowest: {places[-1]}, {means.iloc[-1]:.1f} %"
    if len(gains):
        arm, place = gains.abs().idxmax()
        finding = f"Largest change over {arms[0]}: {arm} in {place}, {gains[arm, place]:+.1f} points"
    return _finish(figure, title or finding, alt or f"Accuracy by category and arm. {'; '.join(words)}.")


@style()
def dose(frame: DataFrame, title: str | None = None, alt: str | None = None) -> Figure:
    """Accuracy against the share of training questions that carry Reasoning, a line a stage, a panel a set of questions.

    Columns: percent (0 to 100), stage, value (percent); optional: set, low, high (percent), n (questions).
    """
    frame = _table(frame, ("percent", "stage", "value"), ("percent", "value", "low", "high", "n"), set="all").dropna(subset=["percent", "value"])
    if frame.empty:
        return _nothing(title, alt)
    sets = [s for s in ("authored", "control") if s in set(frame["set"])] or list(dict.fromkeys(frame["set"]))
    figure, axes = _axes(3.6, 1, len(sets), sharey=False)
    axes = axes.flat if len(sets) > 1 else [axes]
    words, gains = [], {}
    for ax, which in zip(axes, sets, strict=True):
        here = frame[frame["set"] == which]
        for number, stage in enumerate(_order(here["stage"], STAGES)):
            part = here[here["stage"] == stage].sort_values("percent", kind="stable").reset_index(drop=True)
            look = {"color": (BLUE, VERMILLION)[number % 2], "fmt": "os"[number % 2] + "-", "markersize": 6.5}
            # Apart by a point of the axis, or the intervals of the two stages would lie on each other.
            ax.errorbar(part["percent"] + 1.2 * number, part["value"], yerr=_errors(part), label=stage, **look)
            words.append(f"{which} {stage}: " + ", ".join(f"{p:.0f} % {v:.1f}" for p, v in zip(part["percent"], part["value"], strict=True)))
            gains[which, stage] = f"{part['value'].iloc[0]:.1f} → {part['value'].iloc[-1]:.1f} %"
        ax.set_title({"authored": "authored questions", "control": "positive control"}.get(which, which), fontsize=11)
        ax.set_xticks(sorted(set(frame["percent"])))
        ax.set_xlabel("training questions with Reasoning, %")
        ax.set_ylim(bottom=0)
        ax.grid(axis="y")
    axes[0].set_ylabel("accuracy, %")
    handles, labels = axes[0].get_legend_handles_labels()
    _legend(figure, handles, [f"{name}: {STAGES[name]}" if name in STAGES else name for name in labels])
    lowest, highest = (f"{p:.0f} %" for p in (frame["percent"].min(), frame["percent"].max()))
    said = ", ".join(f"{s} on {w} {ends}" for (w, s), ends in gains.items() if s == "S4" or len(gains) == 1)
    finding = f"From {lowest} to {highest} Reasoning: {said}"
    return _finish(figure, title or finding, alt or f"Accuracy in percent against the share with Reasoning. {'; '.join(words)}.")
