"""Decoding in batches, greedy or sampled: a cache that is allocated once, rows that leave when they are done, lines that can be begun for the model."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

# Tokens between two looks at which rows have finished.
LOOK_EVERY = 4


def ended(instruction: str, text: str) -> int:
    """How many characters of `text` belong to the completion once it has come to its end, or -1 while it has not.

    A translation is one line; the other completions end with the line of their answer, or at a blank line.
    """
    body = len(text) - len(text.lstrip())
    line = re.search(r"\n" if instruction == "translate" else r"\n\s*\n|(?<=\n)Answer:.*\n|^\s*Answer:.*\n", text[body:])
    return body + line.end() if line else -1


@lru_cache(maxsize=1 << 16)
def _breaks(tokenizer, token: int) -> bool:
    """Whether a token holds a line break."""
    return "\n" in tokenizer.decode([token])


@dataclass
class Writer:
    """One completion being written: `take` each token until it says that this was the last.

    It ends at one of the `ends`, where `ended` says (given an `instruction`), or `cut` off after `budget` tokens.
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
        self.cut = len(self.tokens) >= self.budget
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

    `cues` are those of the lines after the first. A line that does not end within its budget is ended for the model (budget forcing,
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
        if not (stops or broken) and self._written < self.budgets[self._line]:
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
        """Keys and values in buffers of their final size: growing by concatenation would copy the whole cache at every token."""

        def __init__(self, room: int):
            super().__init__()
            self.room, self.buffers = room, None

        def update(self, key_states, value_states, *args, **kwargs):
            begun = self.get_seq_length()
            end = begun + key_states.shape[-2]
            if self.buffers is None:
                self.lazy_initialization(key_states, value_states)
                shape = (*key_states.shape[:2], self.room)
                self.buffers = tuple(x.new_empty(*shape, x.shape[-1]) for x in (key_states, value_states))
            rows = key_states.shape[0]
            for buffer, fresh in zip(self.buffers, (key_states, value_states), strict=True):
                buffer[:rows, :, begun:end] = fresh
            self.keys, self.values = (buffer[:rows, :, :end] for buffer in self.buffers)
            return self.keys, self.values

        def keep(self, moves: Sequence[tuple[int, int]], rows: int) -> None:
            """Copy row to row for each of `moves` (from, to), then hold the first `rows` rows only."""
            length = self.get_seq_length()
            for buffer in self.buffers:
                for source, target in moves:
                    buffer[target, :, :length] = buffer[source, :, :length]
            self.keys, self.values = (buffer[:rows, :, :length] for buffer in self.buffers)

    return Layer


def _cache(model, room: int):
    from transformers.cache_utils import Cache

    return Cache(layers=[_layer_class()(room) for _ in range(model.config.get_text_config(decoder=True).num_hidden_layers)])


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
    held = _cache(model, len(ids))
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
    """Let each writer take the next tokens after its row, a prefix and token ids, until it is done; rows of like length share a batch.

    A step on a few rows costs nearly as much as one on many, so a batch stops at its last eighth; what these rows still have to write is
    written at the end, together. `progress` is told how many rows have been finished.
    """
    pick = _picker(_causal(model), sampling)
    waiting = sorted(range(len(rows)), key=lambda i: (len(rows[i][0].ids), len(rows[i][1])))
    late: list[int] = []
    while waiting or late:
        if not waiting:
            waiting, late = late, []
        chosen, waiting = waiting[:batch], waiting[batch:]
        given = [(rows[i][0], [*rows[i][1], *writers[i].tokens]) for i in chosen]
        left = _batch(model, given, [writers[i] for i in chosen], pad, len(chosen) // 8 if waiting or late else 0, pick)
        late += [chosen[j] for j in left]
        progress(len(chosen) - len(left))


def _batch(model, rows: Sequence[tuple[Prefix, Sequence[int]]], writers: Sequence[Writer], pad: int, leave: int, pick: Callable) -> list[int]:
    """Decode rows in one batch until at most `leave` are not done; their places are returned.

    Rows are left-padded, so that all end together. Every `LOOK_EVERY` tokens the rows that are done leave, and those behind them move up.
    """
    import torch

    causal, device = _causal(model), model.device
    width = max(len(ids) for _, ids in rows)
    own, kept = [], []
    for prefix, ids in rows:
        # No padding between a prefix and what follows it, which a sliding window would count: of a prefix the last tokens are computed again.
        again = min(width - len(ids), len(prefix.ids))
        kept.append(len(prefix.ids) - again)
        own.append([*prefix.ids[kept[-1] :], *ids])
    begun = max(kept)
    room = begun + width + max(w.longest for w in writers) + LOOK_EVERY
    held = _cache(model, room)
    _fill(held, [prefix for prefix, _ in rows], kept)
    mask = torch.ones(len(rows), room, dtype=torch.long, device=device)
    for i, ids in enumerate(own):
        mask[i, : begun - kept[i]] = 0
        mask[i, begun : begun + width - len(ids)] = 0
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in own], device=device)
    end = begun + width
    positions = (mask[:, :end].cumsum(1) - 1).clamp(min=0)[:, begun:]
    alive, done, taken, step = list(range(len(rows))), set(), {}, 0
    with torch.inference_mode():
        while True:
            hidden = causal.model(
                input_ids=ids, attention_mask=mask[:, :end], position_ids=positions, past_key_values=held, use_cache=True
            ).last_hidden_state[:, -1]
            best = pick(hidden.contiguous()).tolist()
            for i, token in zip(alive, best, strict=True):
                if i not in done and writers[i].take(token):
                    done.add(i)
                taken[i] = writers[i].tokens[-1]
            step, end = step + 1, end + 1
            if len(rows) - len(done) <= leave:
                return [i for i in range(len(rows)) if i not in done]
            ids = torch.tensor([taken[i] for i in alive], device=device)[:, None]
            positions = positions[:, -1:] + 1
            if step % LOOK_EVERY == 0 and done.intersection(alive):
                moves, alive = _move_up(alive, done)
                for layer in held.layers:
                    layer.keep(moves, len(alive))
                for source, target in moves:
                    mask[target], ids[target], positions[target] = mask[source].clone(), ids[source].clone(), positions[source].clone()
                mask, ids, positions = mask[: len(alive)], ids[: len(alive)], positions[: len(alive)]


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
