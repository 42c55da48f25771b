"""One style for every figure: Okabe-Ito colours, notebook width, Japanese glyphs, a finding as title, alt text."""

from __future__ import annotations

import base64
import contextlib
import functools
import importlib.util
import io
import math
import re
import unicodedata
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .files import UserError, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

WIDTH, HEIGHT, SCREEN_DPI, FILE_DPI = 7.0, 3.6, 100, 160  # inches, inches, dots per inch
# Okabe & Ito (2008), "Color Universal Design": apart for every common kind of colour vision.
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, VERMILLION, PURPLE = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")  # fmt: skip
GREY, INK, LINE = "#8A8A8A", "#222222", "#DDDDDD"
ARM_COLOURS = {
    "base": GREY, "plain": BLUE, "reasoned-20": BLACK, "reasoned-33": VERMILLION, "reasoned-67": ORANGE, "reasoned-100": PURPLE,
    "shuffled-33": GREEN, "plain-token-matched": SKY}  # fmt: skip
_SPARE = (BLACK, GREEN, PURPLE, SKY, ORANGE)  # for arms that the user adds
_MARKERS = "ospD^vPX"
SPLIT_COLOURS = {"train": BLUE, "dev": ORANGE, "test": GREEN}
STEP_COLOURS = {"right": GREEN, "chaining": YELLOW, "translation": SKY, "knowledge-reasoning": VERMILLION}
STAGES = {"S1": "translate", "S2": "gold English", "S3": "own translation,\ntwo calls", "S4": "one call",
          "S5": "Japanese only"}  # fmt: skip
FONT_PACKAGE = "matplotlib-fontja==1.1.0"
_SYSTEM_FONTS = ("IPAexGothic", "Noto Sans CJK JP", "Noto Sans JP", "Hiragino Sans", "Yu Gothic", "Meiryo", "IPAGothic")


def japanese_font() -> str | None:
    """Name of a font with Japanese glyphs: IPAexGothic from `matplotlib-fontja`, else one of the system's, else None.

    The package's font file is registered with matplotlib; the package itself, which would change rcParams, is not
    imported.
    """
    from matplotlib import font_manager

    manager = font_manager.fontManager
    spec = importlib.util.find_spec("matplotlib_fontja")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "fonts" / "ipaexg.ttf"
        if path.is_file() and all(font.fname != str(path) for font in manager.ttflist):
            manager.addfont(path)
    known = {font.name for font in manager.ttflist}
    return next((name for name in _SYSTEM_FONTS if name in known), None)


@functools.cache  # once a process: every figure asks
def _warn_no_font() -> None:
    message = f"No Japanese font: boxes stand for Japanese text. Run: pip install {FONT_PACKAGE}"
    warnings.warn(message, stacklevel=4)


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Apply the series' style inside the block alone (also usable as a decorator).

    Warns, and draws on, when no Japanese font is there.
    """
    import matplotlib

    font = japanese_font()
    settings = {
        # Families by name: "sans-serif" would be looked up again when drawn, after the block has ended.
        "font.family": ["DejaVu Sans", font] if font else ["DejaVu Sans"],
        "font.size": 11, "axes.titlesize": 10.5, "axes.labelsize": 10.5, "figure.titlesize": 12, "legend.fontsize": 10,
        "xtick.labelsize": 10, "ytick.labelsize": 10, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": GREY,
        "xtick.color": INK, "ytick.color": INK, "axes.titlelocation": "left", "axes.spines.top": False,
        "axes.spines.right": False, "axes.axisbelow": True, "axes.grid": False, "grid.color": LINE,
        "legend.frameon": False, "lines.linewidth": 1.8, "figure.figsize": (WIDTH, HEIGHT), "figure.dpi": SCREEN_DPI,
        "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "savefig.bbox": None,
        "axes.prop_cycle": matplotlib.cycler(color=[BLUE, VERMILLION, GREEN, ORANGE, SKY, PURPLE, BLACK]),
        "text.parse_math": False,  # a "$" in a record is money, not mathematics
        "svg.fonttype": "path", "svg.hashsalt": "bonsai",  # outlines need no font where shown; the same bytes each time
    }  # fmt: skip
    with warnings.catch_warnings() if font is None else contextlib.nullcontext():
        if font is None:
            _warn_no_font()
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
        with matplotlib.rc_context(settings):
            yield


def arm_colour(name: str) -> str:
    """Colour of an arm as "#RRGGBB": fixed for the arms of `ARM_COLOURS`, else chosen by the name (always the same)."""
    return ARM_COLOURS.get(name) or _SPARE[zlib.crc32(name.encode()) % len(_SPARE)]


def alt_text(figure: Figure) -> str:
    """The alternative text that a figure of this module carries."""
    return figure.get_label()


def save(figure: Figure, folder: str | Path, name: str, alt: str | None = None) -> tuple[Path, Path]:
    """Write `name`.png (160 dpi) and `name`.svg into `folder`, both whole, with `alt` inside (default: the figure's).

    Returns the paths of PNG and SVG. Raises `UserError` for a name that is not a plain file name or when the
    folder cannot be written.
    """
    if not name or Path(name).name != name or "\\" in name or name.startswith("."):
        raise UserError(f"{name!r}: not a plain file name. Give the folder apart, and a name such as 'loss'.")
    alt, title = alt or alt_text(figure), figure.get_suptitle().replace("\n", " ") or name
    drawn = []
    with style():
        # Both are drawn before either is written, so that a drawing error leaves no lone half of the pair.
        for kind, extra in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=FILE_DPI, metadata={"Title": title, "Description": alt, **extra})
            drawn.append((Path(folder) / f"{name}.{kind}", buffer.getvalue()))
    for path, content in drawn:
        with whole_file(path, "wb") as f:
            f.write(content)
    return drawn[0][0], drawn[1][0]


def _bundle(figure: Figure, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=FILE_DPI)
    width, height = (round(inches * SCREEN_DPI) for inches in figure.get_size_inches())
    shown = {"alt": alt_text(figure), "width": width, "height": height}
    return {"image/png": base64.b64encode(buffer.getvalue()).decode()}, {"image/png": shown}


def _axes(height: float = HEIGHT, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def _finish(figure: Figure, title: str, alt: str) -> Figure:
    for columns in (80, 74, 68, 62, 56, 50):  # the widest that fits: letters differ in width
        drawn = figure.suptitle(_wrap(title, columns), x=0.012, ha="left")
        if drawn.get_window_extent().width < 0.975 * figure.bbox.width:
            break
    figure.set_figheight(figure.get_figheight() + 0.2 * drawn.get_text().count("\n"))
    figure.set_label(alt)
    # Not known to pyplot, so shown once, by the cell that ends with it, with its alternative text.
    figure._repr_mimebundle_ = functools.partial(_bundle, figure)
    figure.draw_without_rendering()
    return figure


def _nothing(title: str | None, alt: str | None) -> Figure:
    figure, ax = _axes(2.0)
    ax.set_axis_off()
    ax.text(0.5, 0.5, "no data", ha="center", va="center", color=GREY)
    return _finish(figure, title or "Nothing measured yet", alt or "Empty figure: there is no data.")


def _wrap(text: str, columns: int) -> str:
    lines, width = [""], 0
    # A wide character may start a line, a Latin word is kept whole; so is what a no-break space holds together.
    text = str(text).replace(" %", "\N{NO-BREAK SPACE}%")
    wide = r"\u3000-\u9fff\uff00-\uffef"
    for piece in re.findall(rf"[{wide}]|[^ \t\r\n{wide}]{{1,{columns}}}|[ \t\r\n]+", text):
        size = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in piece)
        # A line never starts with a closing mark (kinsoku).
        blank = not piece.strip(" \t\r\n")
        if width and width + size > columns and not blank and piece not in "、。，．）」』】！？ー":
            lines, width = [*lines, ""], 0
        if blank:
            piece, size = (" ", 1) if width else ("", 0)
        lines[-1], width = lines[-1] + piece, width + size
    return "\n".join(line.rstrip() for line in lines)


def _table(data: Any, need: Sequence[str], numbers: Sequence[str] = (), **defaults: Any) -> DataFrame:
    import pandas as pd

    frame = pd.DataFrame(data).reset_index(drop=True)
    missing = [name for name in need if name not in frame.columns]
    if missing and len(frame):
        there = ", ".join(map(str, frame.columns))
        raise UserError(f"This figure needs the column {missing[0]!r}; the table has {there}.")
    for name in (*need, *numbers, *defaults):
        if name not in frame.columns:
            frame[name] = defaults.get(name, math.nan)
    for name in numbers:
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float).replace([math.inf, -math.inf], math.nan)
    for name in {*need, *defaults} - set(numbers):
        frame[name] = frame[name].astype(object).where(frame[name].notna(), defaults.get(name, "?")).astype(str)
    return frame


def _order(names: Iterable[str], known: Iterable[str]) -> list[str]:
    found = list(dict.fromkeys(names))
    first = [name for name in known if name in found]
    return first + [name for name in found if name not in first]


def _colours(names: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
    order = _order(names, known)
    taken = {known[name] for name in order if name in known}
    chosen = {}
    for name in order:
        colour = known.get(name) or arm_colour(name)
        if name not in known and colour in taken:
            colour = next((c for c in _SPARE if c not in taken), colour)
        taken.add(colour)
        chosen[name] = colour
    return chosen


def _marker(arm: str) -> str:
    known = list(ARM_COLOURS)
    return _MARKERS[known.index(arm)] if arm in known else "*<>pH8"[zlib.crc32(arm.encode()) % 6]


def _arms(frame: DataFrame) -> dict[str, dict[str, Any]]:
    colours = _colours(frame["arm"], ARM_COLOURS)
    return {a: {"color": c, "marker": _marker(a)} for a, c in colours.items()}


def _rows(labels: Sequence[str], xlabel: str, each: float = 0.36, columns: int = 30) -> tuple[Figure, Any]:
    texts = [_wrap(label, columns) for label in labels]
    each = max(each, 0.1 + 0.17 * max(text.count("\n") + 1 for text in texts))
    figure, ax = _axes(max(2.3, 1.4 + each * len(texts)))
    ax.set_yticks(range(len(texts)), texts)
    ax.set_ylim(len(texts) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=7)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x")
    ax.set_xlabel(xlabel)
    return figure, ax


def _errors(part: DataFrame) -> Any:
    import numpy as np

    return np.maximum(np.vstack([part["value"] - part["low"], part["high"] - part["value"]]), 0)


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    options = {"ncols": min(4, len(labels)), "handletextpad": 0.5, "columnspacing": 1.5}
    figure.legend(handles, labels, loc="outside lower center", **options)


def _few(values: Mapping[str, float], form: str, lowest: bool = False) -> str:
    """What a title says of the arms, the best first: those that the question is about, whichever others do better; all where there are few."""
    ranked = sorted(values, key=lambda name: values[name], reverse=not lowest)
    asked = [name for name in ranked if name in ("base", "plain", "reasoned-33")]
    shown = asked if len(ranked) > 4 and len(asked) > 1 else ranked[:3] + [name for name in ranked[3:] if name == "base"]
    return ", ".join(f"{name}\N{NO-BREAK SPACE}{values[name]:{form}}" for name in shown)


def _sizes(n: Any) -> str:
    known = sorted({int(x) for x in n.dropna()})
    return "" if not known else f"n = {known[0]:,}" if len(known) == 1 else f"n = {known[0]:,} to {known[-1]:,}"


def _ink(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else "white"
