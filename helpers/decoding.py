"""Decoding in batches, greedy or sampled: a cache that is allocated once, rows that leave when they are done, lines that can be begun for the model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

from . import attention, packing

# Tokens between two looks at which rows have finished.
LOOK_EVERY = 4
# A completion that ends in this many tokens or more, the same up to LOOP_UNIT of them four times over, is taken not to come out of that loop.
LOOP, LOOP_UNIT = 32, 16


def ended(instruction: str, text: str) -> int:
    """How many characters of `text` belong to the completion once it has come to its end, or -1 while it has not.

    A translation is one line; the other completions end with the line of their answer, or at a blank line.
    """
    body = len(text) - len(text.lstrip())
    line = re.search(r"\n" if instruction == "translate" else r"\n\s*\n|(?<=\n)Answer:.*\n|^\s*Answer:.*\n", text[body:])
    return body + line.end() if line else -1


def in_a_loop(tokens: Sequence[int]) -> bool:
    """Whether `tokens` end in a loop (see `LOOP`): a small model that repeats itself does so until its budget ends."""
    for unit in range(1, LOOP_UNIT + 1 if len(tokens) >= LOOP else 0):
        if tokens[-1] != tokens[-1 - unit]:
            continue
        length = max(LOOP, 4 * unit)
        tail = tokens[-length:]
        if len(tail) == length and tail[unit:] == tail[:-unit]:
            return True
    return False


@lru_cache(maxsize=1 << 16)
def _breaks(tokenizer, token: int) -> bool:
    """Whether a token holds a line break."""
    return "\n" in tokenizer.decode([token])


@dataclass
class Writer:
    """One completion being written: `take` each token until it says that this was the last.

    It ends at one of the `ends`, where `ended` says (given an `instruction`), or `cut` off after `budget` tokens or where it is `in_a_loop`.
    """

    tokenizer: Any
    ends: Sequence[int]
    budget: int
    instruction: str = ""
    tokens: list[int] = field(default_factory=list)
    cut: bool = False

    def take(self, token: int) -> bool:
        """Take the model's next token; True when the completion is over. The token to go on from is the last of `tokens`."""
        self.tokens.append(token)
        # A completion ends with a line.
        if token in self.ends or (self.instruction and _breaks(self.tokenizer, token) and ended(self.instruction, self.text) >= 0):
            return True
        self.cut = len(self.tokens) >= self.budget or in_a_loop(self.tokens)
        return self.cut

    @property
    def text(self) -> str:
        """What has been written, without an end token."""
        return self.tokenizer.decode([t for t in self.tokens if t not in self.ends])

    @property
    def longest(self) -> int:
        """The most tokens that it can come to."""
        return self.budget


@dataclass
class LineWriter(Writer):
    """A completion of lines, each with its own of the `budgets` (tokens): when one has ended, the next is begun with its cue.

    `cues` are those of the lines after the first. A line that does not end within its budget, or is `in_a_loop`, is ended for the model (budget forcing,
    Muennighoff et al. 2025, arXiv 2501.19393) and the completion is marked as `cut`.
    """

    cues: Sequence[str] = ()
    budgets: Sequence[int] = ()
    _line: int = 0
    _written: int = 0
    _forced: list[int] = field(default_factory=list)

    def take(self, token: int) -> bool:
        """Take the model's next token, or in its place one of the cue that is due; True when the last line is over."""
        if self._forced:
            self.tokens.append(self._forced.pop(0))
            return False
        last, stops = self._line + 1 == len(self.budgets), token in self.ends
        # A line break before the first word of a line ends nothing.
        broken = not stops and self._written > 0 and _breaks(self.tokenizer, token)
        self._written += 1
        if last or not stops:
            self.tokens.append(token)
        if not (stops or broken) and self._written < self.budgets[self._line] and not in_a_loop(self.tokens[-self._written :]):
            return False
        self.cut |= not (stops or broken)
        if last:
            return True
        self._forced = self._cue(self._line, broken)
        self._line, self._written = self._line + 1, 0
        if stops:
            self.tokens.append(self._forced.pop(0))
        return False

    def _cue(self, line: int, broken: bool) -> list[int]:
        return list(self.tokenizer(("" if broken else "\n") + self.cues[line], add_special_tokens=False)["input_ids"])

    @property
    def longest(self) -> int:
        """The most tokens that it can come to."""
        return sum(self.budgets) + sum(len(self._cue(i, False)) for i in range(len(self.cues)))


@cache
def _layer_class():
    from transformers.cache_utils import DynamicLayer

    class Layer(DynamicLayer):
        """Keys and values in buffers of their final size (lanes × `room` tokens): growing by concatenation would copy the whole cache at every token."""

        def __init__(self, lanes: int, room: int):
            super().__init__()
            self.lanes, self.room, self.first, self.buffers = lanes, room, 0, None

        def update(self, key_states, value_states, *args, **kwargs):
            rows, begun = len(key_states), self.first + self.get_seq_length()
            end = begun + key_states.shape[-2]
            self._make(key_states, value_states)
            for buffer, fresh in zip(self.buffers, (key_states, value_states), strict=True):
                buffer[:rows, :, begun:end] = fresh
            self.see(rows, self.first, end)
            return self.keys, self.values

        def _make(self, *like) -> None:
            if self.buffers is None:
                self.lazy_initialization(*like)
                self.buffers = tuple(x.new_empty(self.lanes, x.shape[1], self.room, x.shape[3]) for x in like)

        def see(self, rows: int, first: int, end: int) -> None:
            """Hold the first `rows` lanes, from one token to another."""
            self.first = first
            self.keys, self.values = (buffer[:rows, :, first:end] for buffer in self.buffers)

        def keep(self, moves: Sequence[tuple[int, int]], first: int, end: int) -> None:
            """Copy lane to lane for each of `moves` (from, to)."""
            for buffer in self.buffers:
                for source, target in moves:
                    buffer[target, :, first:end] = buffer[source, :, first:end]

        def slide(self, rows: int, first: int, end: int, by: int) -> None:
            """Move what the first `rows` lanes hold by so many tokens."""
            for buffer in self.buffers:
                buffer[:rows, :, first + by : end + by] = buffer[:rows, :, first:end].clone()

        def put(self, pair, lane: int, first: int, end: int) -> None:
            """Copy the keys and values of other rows into the lanes from `lane` on, so that they end at `end`; zeros from `first` to where they begin."""
            self._make(*pair)
            for buffer, fresh in zip(self.buffers, pair, strict=True):
                begun = end - fresh.shape[-2]
                # What is masked is still multiplied.
                buffer[lane : lane + len(fresh), :, first:begun] = 0
                buffer[lane : lane + len(fresh), :, begun:end] = fresh

        def empty(self) -> None:
            """Hold nothing."""
            if self.buffers is not None:
                self.see(0, 0, 0)

        def clear(self, rows: int, first: int, end: int) -> None:
            """Zeros in the first `rows` lanes."""
            for buffer in self.buffers:
                buffer[:rows, :, first:end] = 0

    return Layer


def _cache(model, lanes: int, room: int):
    from transformers.cache_utils import Cache

    return Cache(layers=[_layer_class()(lanes, room) for _ in range(model.config.get_text_config(decoder=True).num_hidden_layers)])


@dataclass(frozen=True)
class Prefix:
    """What all prompts of a call begin with: its token ids, and the keys and values of each layer (1 row)."""

    ids: tuple[int, ...] = ()
    states: tuple = ()


def _causal(model):
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def prefix(model, ids: Sequence[int]) -> Prefix:
    """Compute a shared prefix once; empty for no ids."""
    import torch

    if not ids:
        return Prefix()
    held = _cache(model, 1, len(ids))
    with torch.inference_mode():
        _causal(model).model(input_ids=torch.tensor([list(ids)], device=model.device), past_key_values=held, use_cache=True)
    return Prefix(tuple(ids), tuple((layer.keys, layer.values) for layer in held.layers))


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn: among the `top_k` likeliest at `temperature`, from a stream of `seed`; greedy at temperature 0."""

    temperature: float = 0.0
    top_k: int = 40
    seed: int = 0


GREEDY = Sampling()


def decode(
    model,
    rows: Sequence[tuple[Prefix, Sequence[int]]],
    writers: Sequence[Writer],
    pad: int,
    batch: int,
    progress: Callable[[int], None],
    sampling: Sampling = GREEDY,
) -> None:
    """Let each writer take the next tokens after its row, a prefix and token ids, until it is done; at most `batch` rows at once.

    The place of a row that is done is given to one that waits (continuous batching: Yu et al. 2022, Orca, OSDI), a quarter of a batch at a time: a step on
    a few rows costs nearly as much as one on many. Rows of the longest prefix begin, and of these those that may come to most tokens. `progress` is
    told how many rows have been finished.
    """
    import torch

    if not rows:
        return
    pick = _picker(_causal(model), sampling)
    waiting = sorted(range(len(rows)), key=lambda i: (-len(rows[i][0].ids), -writers[i].longest, -len(rows[i][1])))
    batch = min(batch, len(rows))
    apart = packing.can_take(_causal(model), max(len(prefix.ids) + len(ids) for prefix, ids in rows))
    lanes = _Lanes(model, batch, room(rows, writers, len(rows) > batch, apart), pad, apart)
    with torch.inference_mode():
        while waiting or lanes.rows:
            if waiting and batch - len(lanes.rows) >= (max(1, batch // 4) if lanes.rows else 1):
                count = batch - len(lanes.rows)
                chosen, waiting = waiting[:count], waiting[count:]
                lanes.take(chosen, pick(lanes.admit(chosen, [rows[i] for i in chosen])).tolist(), writers)
            for _ in range(LOOK_EVERY):
                if len(lanes.done) == len(lanes.rows):
                    break
                lanes.take(lanes.rows, pick(lanes.step()).tolist(), writers)
            if lanes.done:
                progress(len(lanes.done))
                lanes.leave()


def room(rows: Sequence[tuple[Prefix, Sequence[int]]], writers: Sequence[Writer], waits: bool, apart: bool = False) -> int:
    """Tokens in a lane: those of the longest row (without its prefix, where that is held `apart`) with what may follow it; where a row waits,
    also some that are used up before lanes must be moved.
    """
    most = max(len(prefix.ids) * (not apart) + len(ids) for prefix, ids in rows) + max(w.longest for w in writers)
    return (most * 5 // 4 if waits else most) + 2 * LOOK_EVERY


class _Lanes:
    """Rows that are being written, a lane each of one cache. All end at the same token; before a row's `start` its lane is masked.

    With prefixes `apart` new rows are computed without padding, and what they follow on is in no lane: it is held once for all.
    """

    def __init__(self, model, count: int, room: int, pad: int, apart: bool):
        import torch

        self.causal, self.room, self.pad, self.apart = _causal(model), room, pad, apart
        self.held = _cache(model, count, room)
        self.rows: list[int] = []
        self.done: set[int] = set()
        self.first = self.end = 0
        self.starts, self.ids = (torch.zeros(0, dtype=torch.long, device=model.device) for _ in range(2))
        self.follows: list[tuple] = []
        self.before: attention.Before | None = None

    def admit(self, numbers: Sequence[int], rows: Sequence[tuple[Prefix, Sequence[int]]]):
        """Compute new rows, which get the next lanes; their last hidden states (rows × width)."""
        import torch

        lengths = [len(prefix.ids) * (not self.apart) + len(ids) for prefix, ids in rows]
        whole = max(lengths)
        if not self.rows:
            self.first, self.end = 0, whole
            for layer in self.held.layers:
                layer.empty()
        hidden = (self._packed if self.apart else self._padded)(rows, whole)
        self.rows += numbers
        self.starts = torch.cat([self.starts, self.starts.new_tensor([self.end - length for length in lengths])])
        self.ids = torch.cat([self.ids, self.ids.new_tensor([ids[-1] for _, ids in rows])])
        self._follow([*self.follows, *(prefix.states if self.apart else () for prefix, _ in rows)])
        return hidden

    def _follow(self, states: list[tuple]) -> None:
        self.follows = states
        self.before = attention.Before(states) if any(states) else None

    def _packed(self, rows, whole: int):
        packed = packing.Rows([ids for _, ids in rows], [prefix for prefix, _ in rows])
        packed.kept = []
        hidden = packing.run(self.causal, packed)[[places[-1] for places in packed.places]]
        self._put(_unpacked(packed, whole), len(rows), whole)
        return hidden

    def _padded(self, rows, whole: int):
        import torch

        device, width = self.starts.device, max(len(ids) for _, ids in rows)
        own, kept = [], []
        for prefix, ids in rows:
            # No padding between a prefix and what follows it, which a sliding window would count: of a prefix the last tokens are computed again.
            again = min(width - len(ids), len(prefix.ids))
            kept.append(len(prefix.ids) - again)
            own.append([*prefix.ids[kept[-1] :], *ids])
        # Nothing is copied where all lanes are free.
        fresh = _cache(self.causal, len(rows), whole) if self.rows else self.held
        _fill(fresh, [prefix for prefix, _ in rows], kept)
        starts = torch.tensor([whole - len(ids) - k for ids, k in zip(own, kept, strict=True)], device=device)
        ids = torch.tensor([[self.pad] * (width - len(row)) + row for row in own], device=device)
        hidden = self._forward(ids, starts, fresh, 0, whole)
        if fresh is not self.held:
            self._put(_given_up(fresh), len(rows), whole)
        return hidden

    def _put(self, states: Iterable[tuple], count: int, whole: int) -> None:
        """Copy keys and values (rows × heads × `whole` × width) of each layer into the next lanes."""
        if self.end < whole:
            self._slide(whole - self.end)
        at, first = len(self.rows), min(self.first, self.end - whole)
        for layer, pair in zip(self.held.layers, states, strict=True):
            layer.put(pair, at, first, self.end)
            layer.clear(at, first, self.first)
            layer.see(at + count, first, self.end)
        self.first = first

    def step(self):
        """One more token of each row; its hidden states (rows × width)."""
        if self.end == self.room:
            self._slide(-self.first)
        self.end += 1
        return self._forward(self.ids[:, None], self.starts, self.held, self.first, self.end)

    def _forward(self, ids, starts, held, first: int, end: int):
        import torch

        columns = torch.arange(first, end, device=ids.device)
        mask, places = columns >= starts[:, None], (columns[-ids.shape[1] :] - starts[:, None]).clamp(min=0)
        given = {}
        if self.before:
            places = places + self.before.lengths[:, None]
            given = {"before": self.before, "places": places[:, 0]}
        found = self.causal.model(input_ids=ids, attention_mask=mask.long(), position_ids=places, past_key_values=held, use_cache=True, **given)
        return found.last_hidden_state[:, -1].contiguous()

    def take(self, numbers: Sequence[int], tokens: Sequence[int], writers: Sequence[Writer]) -> None:
        """Give the last rows, those of `numbers`, their next tokens. One that is done stays, unheard, until it can `leave`."""
        taken = []
        for number, token in zip(numbers, tokens, strict=True):
            if number not in self.done and writers[number].take(token):
                self.done.add(number)
            taken.append(writers[number].tokens[-1])
        self.ids[-len(taken) :] = self.ids.new_tensor(taken)

    def leave(self) -> None:
        """Rows that are done leave; those behind them move up."""
        moves, self.rows = _move_up(self.rows, self.done)
        self.done, count = set(), len(self.rows)
        for source, target in moves:
            self.starts[target], self.ids[target] = self.starts[source].clone(), self.ids[source].clone()
            self.follows[target] = self.follows[source]
        self.starts, self.ids = self.starts[:count], self.ids[:count]
        self._follow(self.follows[:count])
        for layer in self.held.layers:
            layer.keep(moves, self.first, self.end)
        self.first = int(self.starts.min()) if count else self.end
        for layer in self.held.layers:
            layer.see(count, self.first, self.end)

    def _slide(self, by: int) -> None:
        for layer in self.held.layers:
            layer.slide(len(self.rows), self.first, self.end, by)
            layer.see(len(self.rows), self.first + by, self.end + by)
        self.first, self.end, self.starts = self.first + by, self.end + by, self.starts + by


def _fill(held, prefixes: Sequence[Prefix], kept: Sequence[int]) -> None:
    """Put the states of the first `kept` tokens of each row's prefix into an empty cache, so that all end at the same place."""
    begun = max(kept)
    places: dict[tuple[int, int], list[int]] = {}
    for row, one in enumerate(prefixes):
        if kept[row]:
            places.setdefault((id(one), kept[row]), []).append(row)
    states = {id(one): one.states for one in prefixes}
    for number, layer in enumerate(held.layers if begun else ()):
        pair = []
        for part in (0, 1):
            like = next(s[number][part] for s in states.values() if s)
            # Zeros where there is nothing: what is masked is still multiplied.
            filled = like.new_zeros(len(prefixes), like.shape[1], begun, like.shape[3])
            for (key, count), rows in places.items():
                filled[rows, :, begun - count :] = states[key][number][part][:, :, :count]
            pair.append(filled)
        layer.update(*pair)


def _given_up(cache) -> Iterator[tuple]:
    """Keys and values of each layer, of which the cache lets go."""
    for layer in cache.layers:
        yield layer.keys, layer.values
        layer.keys = layer.values = layer.buffers = None


def _unpacked(packed: packing.Rows, whole: int) -> Iterator[tuple]:
    """Keys and values of each layer (rows × heads × `whole` × width) of rows that were run without padding, so that all end at the same place."""
    import torch

    flat = torch.tensor([[packed.tokens] * (whole - len(places)) + places for places in packed.places]).flatten()
    while packed.kept:
        pair = packed.kept.pop(0)
        # Zeros where there is nothing: what is masked is still multiplied.
        padded = (torch.cat([x, x.new_zeros(len(x), 1, x.shape[2])], 1) for x in pair)
        yield tuple(x.index_select(1, flat).view(len(x), -1, whole, x.shape[2]).transpose(0, 1) for x in padded)


def _move_up(alive: list[int], done: set[int]) -> tuple[list[tuple[int, int]], list[int]]:
    """The (from, to) moves of rows into the places of those that are done, and which row is in each place then."""
    count = sum(i not in done for i in alive)
    gaps = [place for place in range(count) if alive[place] in done]
    behind = [place for place in range(count, len(alive)) if alive[place] not in done]
    moves, left = list(zip(behind, gaps, strict=True)), alive[:count]
    for source, target in moves:
        left[target] = alive[source]
    return moves, left


def _picker(causal, sampling: Sampling = GREEDY) -> Callable:
    """From hidden states (rows × width) to the next token of each row; the logits are written into one buffer.

    A cap on logits (Gemma 2) keeps their order and is left out of greedy decoding; a sample is drawn without it.
    """
    import torch

    layer = causal.get_output_embeddings()
    stream = torch.Generator(layer.weight.device).manual_seed(sampling.seed)
    buffer = None

    block = math.gcd(layer.weight.shape[0], 512)

    def pick(hidden):
        nonlocal buffer
        if buffer is None or len(buffer) < len(hidden):
            buffer = hidden.new_empty(len(hidden), layer.weight.shape[0])
        logits = torch.mm(hidden, layer.weight.T, out=buffer[: len(hidden)])
        if getattr(layer, "bias", None) is not None:
            logits += layer.bias
        if sampling.temperature > 0:
            values, found = logits.float().topk(min(sampling.top_k, logits.shape[1]), -1)
            drawn = torch.multinomial((values / sampling.temperature).softmax(-1), 1, generator=stream)
            return found.gather(-1, drawn)[:, 0]
        if block < 32:
            return logits.argmax(-1)
        # argmax over a whole vocabulary is not vectorised on the CPU; the largest of each block is. Ties go to the first, as in argmax.
        blocks = logits.view(len(logits), -1, block)
        best = blocks.amax(-1).argmax(-1)
        return best * block + blocks[torch.arange(len(best), device=best.device), best].argmax(-1)

    return pick
