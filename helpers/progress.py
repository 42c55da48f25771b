"""Progress: one line that is redrawn on a terminal, plain lines now and then elsewhere. Standard library alone."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
import unicodedata
from typing import TextIO


def columns(text: str) -> int:
    """Width of `text` in terminal columns: wide characters (kanji, kana) take two, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def pad(text: str, width: int) -> str:
    """`text` filled up with spaces to `width` terminal columns."""
    return text + " " * (width - columns(text))


def cut(text: str, width: int) -> str:
    """`text` without control characters, shortened to `width` terminal columns."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if columns(text) <= width:
        return text
    while text and columns(text) > width - 1:
        text = text[:-1]
    return text + "…"


def bar(done: int, total: int, width: int = 20) -> str:
    """A text bar such as `[#####-----]`."""
    filled = width * done // max(total, 1)
    return f"[{'#' * filled}{'-' * (width - filled)}]"


def clock(seconds: float) -> str:
    """`4.2 s` below a minute, else `m:ss` or `h:mm:ss`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class Status:
    """What is going on now: redrawn every second on a terminal; elsewhere a plain line every `every` seconds.

    Used as a context manager. `show` replaces the text, `line` prints a line that stays.
    """

    def __init__(self, stream: TextIO | None = None, every: float = 60.0):
        self.stream = stream or sys.stdout
        self.live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self.every = every
        self._text = ""
        self._since = time.monotonic()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def show(self, text: str, restart: bool = True) -> None:
        """Set the text; `restart` sets its clock to zero."""
        with self._lock:
            self._text = text
            if restart:
                self._since = time.monotonic()
            if self.live:
                self._draw()

    def line(self, text: str) -> None:
        """Print a line that stays, above the text."""
        with self._lock:
            self._clear()
            print(text, file=self.stream, flush=True)
            if self.live:
                self._draw()

    def _draw(self) -> None:
        if self._text:
            room = shutil.get_terminal_size().columns - 1
            self.stream.write("\r\033[K" + cut(f"{clock(time.monotonic() - self._since):>6}  {self._text}", room))
            self.stream.flush()

    def _clear(self) -> None:
        if self.live:
            self.stream.write("\r\033[K")
            self.stream.flush()

    def _tick(self) -> None:
        said = time.monotonic()
        while not self._stop.wait(1.0):
            with self._lock:
                if self.live:
                    self._draw()
                elif time.monotonic() - max(said, self._since) >= self.every and self._text:
                    said = time.monotonic()
                    text = f"  … {clock(said - self._since)}: {self._text}"
                    print(cut(text, 160), file=self.stream, flush=True)

    def __enter__(self) -> Status:
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()
        with self._lock:
            self._clear()
