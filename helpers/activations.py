"""What a training step holds beside the model, tensor by tensor, as transformers, peft and bitsandbytes keep it on a CUDA device."""

from __future__ import annotations

from .architectures import Architecture
from .fused import LOGIT_ROWS, LOGIT_TOKENS


class Step:
    """Bytes that one training step holds besides the model, its adapter and their gradients.

    `stream` is the input of one block, `block` what a block keeps whole, `working` what is there besides while it goes back, `outside` what
    is kept outside the blocks. `mixed`: products in 16 bits under autocast, else everything in fp32.

    A T4 has no FlashAttention. Where heads share keys and values and no example is padded, as one alone never is, transformers leaves the
    sharing to torch, which does it in its math kernel alone there: the attention matrix is held whole, in fp32.
    """

    def __init__(self, shape: Architecture, length: int, batch: int, rank: int, targets: tuple[str, ...], weights: str, mixed: bool):
        c = shape.config
        self.shape, self.tokens, self.mixed, self.nf4 = shape, length * batch, mixed, weights == "nf4"
        self.unit = unit = 2 if mixed else 4
        self.width, self.inner = c["hidden_size"], c["intermediate_size"]
        self.q, self.kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.adapted = {x.name: x for x in shape.adapted(targets)}
        phi = shape.family == "phi"
        # phi-2's gelu_new takes powers, which autocast computes in fp32; the sum of the residual stream is fp32 from there on.
        self.wide = 4 if phi else unit
        self.stream = self.tokens * self.width * self.wide
        per_token = self._attention() + (self._phi() if phi else self._gated())
        per_token += rank * unit * len(self.adapted)
        # Rows of the attention's log-sum-exp come in 32s; its mask, added to the scores, is of every pair of positions.
        fixed = batch * (4 * shape.heads * -(-length // 32) * 32 + unit * length * length)
        copies = 2 * rank * sum(x.inputs + x.outputs for x in self.adapted.values()) if mixed else 0
        self.block = self.tokens * per_token + fixed + copies
        whole = shape.kv_heads < shape.heads and batch == 1
        self.matrix = 4 * shape.heads * length * length if whole else 0
        self.block += self.matrix
        # The final norm keeps its input in fp32; the mask is there as booleans, too.
        self.outside = self.tokens * self.width * 4 + batch * length * length
        self.working = self._working()
        self.vocabulary = c["vocab_size"]

    def _attention(self) -> int:
        # Query, key, value and output; heads that share keys and values get copies. Phi-3's value is a view of query, key and value together.
        fused = self.shape.family == "phi3" and self.q == self.kv
        kept = self.unit * (4 + 2 * fused) * self.q
        if self.shape.family in ("qwen3", "gemma3_text"):
            kept += 4 * (self.q + self.kv + self.shape.heads + self.shape.kv_heads)
        return kept

    def _inputs(self, *names: str) -> int:
        """How many copies of one input the adapters of these layers keep: one in all, or each its own cast."""
        there = sum(n in self.adapted for n in names)
        cast = self.mixed and (self.shape.family == "phi" or not self.nf4)
        return there if cast else min(1, there)

    def _phi(self) -> int:
        d, f, unit = self.width, self.inner, self.unit
        kept = 4 * d + unit * d * self._inputs("q_proj", "k_proj", "v_proj", "fc1")
        kept += 16 * f if self.nf4 or not self.mixed else 14 * f
        kept += unit * f * self._inputs("fc2")
        return kept + unit * self.q * (self._inputs("dense") if self.mixed and not self.nf4 else 0)

    def _gated(self) -> int:
        d, f, unit = self.width, self.inner, self.unit
        norms = 4 if self.shape.family == "gemma3_text" else 2
        first, out, second, last = (
            (("qkv_proj",), "o_proj", ("gate_up_proj",), "down_proj") if self.shape.family == "phi3"
            else (("q_proj", "k_proj", "v_proj"), "o_proj", ("gate_proj", "up_proj"), "down_proj")
        )  # fmt: skip
        kept = norms * 4 * (d + 1) + unit * d * (self._inputs(*first) + self._inputs(*second))
        kept += unit * (3 * f + f * self._inputs(last))
        return kept + unit * self.q * (self._inputs(out) if self.mixed and not self.nf4 else 0)

    def _working(self) -> int:
        """What is there besides while a block goes back: one weight written out, and gradients as wide as the block's inner layer.

        How many of these there are at once was read off the meta device, not derived.
        """
        gradient, matrices = self.tokens * self.inner * self.unit, 2 * self.matrix
        if not self.nf4:
            return round((4.5 if self.mixed else 1) * gradient) + matrices
        at_once = 4 if self.shape.family == "phi" and self.mixed else 0 if self.shape.family == "phi3" else 1
        return max(x.size for x in self.shape.linears) * self.unit + at_once * gradient + matrices

    def evaluation(self, tokens: int) -> int:
        """Bytes that a pass without gradients over `tokens` holds where it is widest; read off the meta device as multiples of the widths."""
        if self.shape.family == "phi":
            inner, outer = (4, 4) if not self.mixed else (8, 6) if self.nf4 else (6, 5)
        else:
            inner, outer = 6 if self.shape.family == "phi3" else 4, 6 if self.mixed and not self.nf4 else 4
        return tokens * self.unit * (inner * self.inner + outer * self.width)

    def loss(self, positions: int, whole: bool) -> tuple[int, int]:
        """Bytes that the loss holds at its own peak, and those that it leaves when the blocks go back."""
        d, unit = self.width, self.unit
        if whole:
            # When it goes back: log-probabilities and two gradients, all in fp32.
            return positions * self.vocabulary * 12, 0
        rows = min(LOGIT_ROWS, positions)
        chosen = positions * d * (self.wide + 4)
        buffer = rows * self.vocabulary * unit + rows * (2 * LOGIT_TOKENS + 2 * d) * 4
        return chosen + buffer, chosen + self.stream
