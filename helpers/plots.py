"""The figures of training and evaluation (of the data: data_plots); each takes tables or plain rows, is titled with its finding and
carries alt text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

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
from .files import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame


@style()
def loss_curves(log: DataFrame, x: str = "tokens_seen", title: str | None = None, alt: str | None = None) -> Figure:
    """Four panels: training loss, answer-only and translation dev loss, learning rate with gradient norm.

    Columns: arm, step; optional: tokens_seen, loss, dev_answer_loss, dev_translation_loss (nats a token),
    learning_rate, grad_norm, seed (a curve for each). `x` is "tokens_seen" or "step"; a log without tokens is shown
    by step. The smoothed training loss is an exponential mean over a fifteenth of the points. An arm that was not
    trained is a dashed level. Raises `UserError` for another `x`.
    """
    if x not in ("tokens_seen", "step"):
        raise UserError(f"x={x!r}: choose 'tokens_seen' or 'step'.")
    rates = ("learning_rate", "grad_norm")
    panels = {"loss": "training loss (each arm’s own targets)", "dev_answer_loss": "dev loss, answer tokens alone",
              "dev_translation_loss": "dev loss, translations"}  # fmt: skip
    numbers = ("step", "tokens_seen", *panels, *rates)
    frame = _table(log, ("arm",), numbers, seed="")
    if frame[[*panels, *rates]].isna().all(axis=None):
        return _nothing(title, alt)
    x = x if frame[x].notna().any() else "step"
    if frame[x].isna().all():
        frame[x] = frame.groupby(["arm", "seed"]).cumcount() + 1.0
    figure, axes = _axes(5.6, 2, 2, sharex=True)
    arms, seen, ends = _arms(frame), {}, {}
    runs = {(a, s): frame[(frame["arm"] == a) & (frame["seed"] == s)] for a in arms
            for s in _order(frame.loc[frame["arm"] == a, "seed"], ())}  # fmt: skip
    for ax, (column, name) in zip(axes.flat, panels.items(), strict=False):
        ax.set_title(name)
        for (arm, _), run in runs.items():
            part = run[[x, column]].dropna().sort_values(x, kind="stable")
            if part.empty:
                continue
            look = {"color": arms[arm]["color"]}
            dots = {**arms[arm], "markersize": 4.5}
            ends.setdefault(column, {}).setdefault(arm, []).append((part[column].iloc[0], part[column].iloc[-1]))
            if column != "loss" and run["loss"].isna().all() and len(part) == 1:
                seen[arm] = ax.axhline(part[column].iloc[0], linestyle="--", **look)
            elif column == "loss":
                ax.plot(part[x], part[column], alpha=0.22, linewidth=0.8, **look)
                smooth = part[column].ewm(span=max(2, len(part) // 15)).mean()
                (seen[arm],) = ax.plot(part[x], smooth, marker="o" if len(part) == 1 else "", **look)
            else:
                (seen[arm],) = ax.plot(part[x], part[column], **dots)
    last = axes[1, 1]
    twin = last.twinx()
    trained = [(arm, run) for (arm, _), run in runs.items() if run[[*rates]].notna().any(axis=None)]
    for number, (arm, run) in enumerate(trained):
        # Dashes of one arm fall into the gaps of the others: equal schedules lie on each other.
        dashes = {"linestyle": (-4 * number, (4, 4 * max(len(trained) - 1, 1)))}
        for column, ax, look in (("grad_norm", last, {"linewidth": 1.2}), ("learning_rate", twin, dashes)):
            part = run[[x, column]].dropna().sort_values(x, kind="stable")
            if len(part):
                shown = part[column].ewm(span=max(2, len(part) // 15)).mean() if ax is last else part[column]
                (line,) = ax.plot(part[x], shown, color=arms[arm]["color"], **look)
                seen.setdefault(arm, line)
                ends.setdefault(column, {})
    last.set_title("grad norm (—), learning rate (- -)")
    twin.spines["right"].set_visible("learning_rate" in ends)
    for column, ax in (("grad_norm", last), ("learning_rate", twin)):
        ax.set_ylim(bottom=0)
        if column not in ends:
            ax.set_yticks([])
    twin.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for ax, found in zip(axes.flat, [*(column in ends for column in panels), bool({*rates} & {*ends})], strict=True):
        if not found:
            ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", va="center", color=GREY)
            ax.set_yticks([])
        ax.grid(axis="y")
    _ticks(axes[1], "tokens seen" if x == "tokens_seen" else "optimizer step")
    _legend(figure, [seen[arm] for arm in arms if arm in seen], [arm for arm in arms if arm in seen])
    measure = next((c for c in ("dev_answer_loss", "dev_translation_loss", "loss") if c in ends), None)
    finals = {arm: sum(b for _, b in pairs) / len(pairs) for arm, pairs in ends.get(measure, {}).items()}
    starts = {"dev_answer_loss": "Answer-only dev loss at the end: ", "loss": "Training loss at the end, own targets: ",
              "dev_translation_loss": "Translation dev loss at the end: "}  # fmt: skip
    finding = starts.get(measure, "") + _few(finals, ".2f", lowest=True)
    spans = {column: [f"{arm} from {pairs[0][0]:.2f} to {pairs[0][1]:.2f}" for arm, pairs in ends[column].items()]
             for column in panels if column in ends}  # fmt: skip
    described = "; ".join(f"{panels[column]}: {', '.join(each)}" for column, each in spans.items())
    return _finish(figure, title or finding or "Learning rate and gradient norm", alt or f"Loss curves. {described}.")


def _ticks(axes: Iterable[Any], label: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    for ax in axes:
        ax.set_xlabel(label)
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))


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
            ax.errorbar(at, part["value"], yerr=errors, **options)
        else:
            ax.errorbar(part["value"], at, xerr=errors, **options)
        words += [f"{arm}, {p}: {v:.1f} %" for p, v in part["value"].items() if v == v]
    highest = max(frame["value"].max(), frame["high"].max() if frame["high"].notna().any() else 0)
    (ax.set_ylim if upright else ax.set_xlim)(0, min(max(highest * 1.1, 5), 102))
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
        size = f"\nn = {row.n:,.0f}" if row.n == row.n and frame["n"].nunique() > 1 else ""
        ax.text(1.02, at, texts[-1] + size, color=INK if at else first, **where)
    return texts


@style()
def forest(frame: DataFrame, unit: str = "percentage points", title: str | None = None,
           alt: str | None = None) -> Figure:  # fmt: skip
    """Paired differences with 95 % intervals against a zero line; blue above, vermillion below, grey across zero.

    Columns: label, value (in `unit`); optional: low, high, n (pairs).
    """
    frame = _table(frame, ("label", "value"), ("value", "low", "high", "n"))
    frame = frame.dropna(subset="value").reset_index(drop=True)
    if frame.empty:
        return _nothing(title, alt)
    figure, ax = _rows(list(frame["label"]), _caption(frame, f"difference, {unit}"), each=0.44)
    ax.axvline(0, color=INK, linewidth=1)
    above, below = frame["low"] > 0, frame["high"] < 0
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
        finding += "" if frame["low"].isna()[0] else ", clear of zero" if clear else ", not clear of zero"
    elif frame["low"].isna().all():
        finding = f"Largest difference: {frame['label'][frame['value'].abs().idxmax()]}"
    else:
        verb = "is" if len(clear) < 2 else "are"
        finding = f"{len(clear) or 'None'} of {len(frame)} differences {verb} clear of zero"
        finding += f": {', '.join(clear)}" if 0 < len(clear) <= 2 else ""
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
