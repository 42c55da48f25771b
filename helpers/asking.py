"""Asks a teacher for many records: each answer is kept as it comes and never paid for twice; a budget or Ctrl-C stops it."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from .asking_cache import Store, content_key
from .bootstrap import lock
from .files import UserError
from .records import Record
from .teachers import Teacher, Unavailable, tidy

PATIENCE = 3  # records in a row for which a teacher may be unavailable before the run is stopped
Progress = Callable[[int, int, int, float, float], None]


@dataclass(frozen=True)
class Budget:
    """What asking may take; None is no limit.

    Tokens, dollars and requests count what the cache holds of this teacher (same model, same prompt), from earlier runs too;
    seconds are those of this run. Raises `UserError` for a limit below zero.
    """

    tokens: int | None = None
    dollars: float | None = None
    requests: int | None = None
    seconds: float | None = None

    def __post_init__(self):
        for name in ("tokens", "dollars", "requests", "seconds"):
            limit = getattr(self, name)
            if limit is not None and not limit >= 0:
                raise UserError(f"Budget {name} is {limit}: give 0 or more, or None for no limit.")


@dataclass(frozen=True)
class Collected:
    """What came of asking.

    `accepted` is the first accepted text of each record, by id; `refused` is (id, reason, text) of every other candidate;
    `outcomes` counts candidates by outcome ("accepted" or the reason). Tokens and `cost` (dollars) are those of the cached
    candidates of this teacher, whenever they were paid for; `asked` and `seconds` are of this run. `left` records could still be
    asked about; `stopped` says why they were not ("" when none is left).
    """

    accepted: dict[str, str]
    refused: tuple[tuple[str, str, str], ...]
    outcomes: dict[str, int]
    tokens_in: int
    tokens_out: int
    cost: float
    asked: int
    seconds: float
    left: int
    stopped: str


def collect(
    teacher: Teacher,
    records: Sequence[Record],
    cache: Path,
    *,
    samples: int = 1,
    accept: Callable[[Record, str], str] | None = None,
    budget: Budget | None = None,
    price: tuple[float, float] = (0.0, 0.0),
    progress: Progress = lambda done, total, tokens, cost, eta: None,
    say: Callable[[str], None] = print,
) -> Collected:
    """Ask `teacher` for a rationale of every record, and keep the first that `accept(record, text)` finds no reason ("") against.

    Rejection sampling: sample k + 1 is asked for only where the samples before were refused, up to `samples`. Every candidate
    goes to `cache` (JSONL) as it comes and is never asked for again: a second call goes on where the first was stopped, by Ctrl-C,
    by the `budget`, or killed. `price` is dollars per million tokens (in, out). `progress(done, total, tokens, cost, eta)` counts
    records that are settled; eta in seconds. Raises `UserError` when the teacher cannot be asked (what came is kept), or the cache
    is damaged or in use.
    """
    budget = budget or Budget()
    if samples < 1:
        raise UserError(f"samples is {samples}: ask for at least 1.")
    if budget.dollars is not None and not any(price):
        raise UserError("A budget in dollars needs the price of the model: price=(dollars per million tokens in, out).")
    cache = Path(cache)
    busy = f"{cache}: another run is asking with this cache. Wait for it, or choose another RUN name."
    with lock(cache.with_name(cache.name + ".lock"), busy=busy), Store(cache, teacher, price, say) as store:
        return _Round(teacher, records, store, samples if teacher.samples_vary else 1, accept, budget, progress, say).run()


class _Round:
    """One call of `collect`: what is judged, what is still to be asked, what is under way."""

    def __init__(self, teacher, records, store, samples, accept, budget, progress, say):
        self.teacher, self.store, self.samples, self.budget = teacher, store, samples, budget
        self.progress, self.say = progress, say
        self.accept = accept or (lambda record, text: "")
        self.records = {content_key(r): r for r in reversed(records)}
        self.ids: dict[str, list[str]] = {}
        for r in records:
            self.ids.setdefault(content_key(r), []).append(r.id)
        self.accepted: dict[str, str] = {}
        self.refused: list[tuple[str, str, str]] = []
        self.outcomes: Counter[str] = Counter()
        self.todo: deque[tuple[str, int]] = deque()
        self.running: dict[Future, list[tuple[str, int]]] = {}
        self.stop = threading.Event()
        self.unavailable, self.in_a_row = "", 0
        self.settled = self.asked = 0
        self.began = time.monotonic()

    def run(self) -> Collected:
        for key in self.ids:
            self.judge(key, 0)
        stopped = ""
        self.report()
        pool = ThreadPoolExecutor(self.teacher.workers, thread_name_prefix="teacher")
        try:
            while not stopped:
                stopped = self.submit(pool)
                if self.running and not stopped:
                    if self.gather(0.5):
                        self.report()
                elif not self.todo:
                    break
        except KeyboardInterrupt:
            stopped = "interrupted"
            self.say(f"Stopping: {len(self.running)} requests under way are waited for and kept. Stop once more to leave them.")
        finally:
            # What is under way may have been paid for: it is waited for and kept, but nothing is tried again.
            self.stop.set()
            try:
                while self.running:
                    self.gather(0.5)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        self.report()
        left = len(self.ids) - self.settled
        if left and not stopped:
            stopped = self.unavailable
        return self.collected(left, stopped if left else "")

    def judge(self, key: str, sample: int) -> None:
        """Go through a record's candidates from `sample` on: accept the first that may be, or put down the next to ask for."""
        record = self.records[key]
        while candidate := self.store.found.get((key, sample)):
            text = tidy(candidate.text)
            why = candidate.error or self.accept(record, text)
            self.outcomes[why or "accepted"] += 1
            if not why:
                self.accepted[key] = text
                break
            self.refused.append((record.id, why, text))
            sample += 1
            if sample >= self.samples:
                break
        else:
            self.todo.append((key, sample))
            return
        self.settled += 1

    def submit(self, pool: ThreadPoolExecutor) -> str:
        """Hand out work to idle workers. Returns why no more may be, or ""."""
        while self.todo and len(self.running) < self.teacher.workers:
            room, limit = self.room()
            if room < 1:
                # With answers under way, what they take is not known yet.
                if self.running and limit != "seconds":
                    return ""
                return f"the budget of {getattr(self.budget, limit):,} {limit} is reached"
            jobs = [self.todo.popleft()]
            while self.todo and len(jobs) < min(self.teacher.batch, room) and self.todo[0][1] == jobs[0][1]:
                jobs.append(self.todo.popleft())
            call = pool.submit(self.teacher.ask, [self.records[key] for key, _ in jobs], jobs[0][1], self.stop)
            self.running[call] = jobs
        return ""

    def room(self) -> tuple[float, str]:
        """How many more candidates the budget allows for, on top of those under way, and the limit that is nearest."""
        store, known = self.store, len(self.store.found)
        under_way = sum(map(len, self.running.values()))
        rooms = [(math.inf, "")]
        if self.budget.requests is not None:
            rooms.append((self.budget.requests - known - under_way, "requests"))
        for name, spent in (("tokens", store.tokens_in + store.tokens_out), ("dollars", store.cost)):
            limit = getattr(self.budget, name)
            if limit is not None and spent:
                # As many as fit at their mean so far; the small part keeps rounding from taking one away.
                rooms.append((math.floor((limit - spent) * known / spent + 1e-6) - under_way, name))
            elif limit is not None:
                # What an answer takes is not known before the first.
                rooms.append((1 - under_way if limit else 0, name))
        if self.budget.seconds is not None and time.monotonic() - self.began >= self.budget.seconds:
            rooms.append((0, "seconds"))
        return min(rooms)

    def gather(self, seconds: float) -> bool:
        """Keep and judge what has come within some seconds; whether anything has. Raises what the teacher raised."""
        done, _ = wait(self.running, seconds, FIRST_COMPLETED)
        for call in done:
            jobs = self.running[call]
            try:
                candidates = call.result()
            except Unavailable as error:
                del self.running[call]
                self.unavailable, self.in_a_row = str(error), self.in_a_row + 1
                if self.in_a_row >= PATIENCE and not self.stop.is_set():
                    raise
                continue
            except BaseException:
                del self.running[call]
                if self.stop.is_set():  # the first failure is the one to report
                    continue
                raise
            came = {c.record_id: c for c in candidates}
            answered = [(key, sample, came[self.records[key].id]) for key, sample in jobs if self.records[key].id in came]
            # Kept before it is taken off the list: a Ctrl-C in between writes it twice, never loses it.
            self.store.add(answered)
            del self.running[call]
            self.asked += len(answered)
            if answered:
                self.in_a_row = 0
            for key, sample, _ in answered:
                self.judge(key, sample)
        return bool(done)

    def report(self) -> None:
        store, p = self.store, self.outcomes["accepted"] / max(self.outcomes.total(), 1)
        waiting = [sample for _, sample in (*self.todo, *(job for jobs in self.running.values() for job in jobs))]
        # How often a record is still asked for, when each answer is accepted with probability p: 1 + (1 - p) + (1 - p)² …
        expected = sum((1 - (1 - p) ** (self.samples - k)) / p if p else self.samples - k for k in waiting)
        pace = (time.monotonic() - self.began) / self.asked if self.asked else 0.0
        self.progress(self.settled, len(self.ids), store.tokens_in + store.tokens_out, store.cost, pace * expected)

    def collected(self, left: int, stopped: str) -> Collected:
        accepted = {i: self.accepted[key] for key, ids in self.ids.items() if key in self.accepted for i in ids}
        store = self.store
        return Collected(
            accepted,
            tuple(self.refused),
            dict(self.outcomes),
            store.tokens_in,
            store.tokens_out,
            store.cost,
            self.asked,
            time.monotonic() - self.began,
            left,
            stopped,
        )
