"""Small tokenizers of the chat families: special tokens and chat templates as the families have them, everything else learnt from the questions.

The templates are this project's own, for a user's turn and an answer alone; they put in what the published ones put in.
"""

from __future__ import annotations

import functools

from helpers import corpora

_TURNS = "{% for m in messages %}{TURN}{% endfor %}{% if add_generation_prompt %}{OPENING}{% endif %}"


def _template(turn: str, opening: str, before: str = "") -> str:
    return before + _TURNS.replace("{TURN}", turn).replace("{OPENING}", opening)


_IM = "<|im_start|>{{ m.role }}\n{THINKING}{{ m.content }}<|im_end|>\n"
_EMPTY = "<think>\n\n</think>\n\n"
_QWEN_SYSTEM = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"

# Style: special tokens, (bos, eos, pad), chat template.
FAMILIES = {
    "phi-4": (
        ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"),
        ("<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
        _template("<|{{ m.role }}|>{{ m.content }}<|end|>", "<|assistant|>"),
    ),
    "gemma": (
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        ("<bos>", "<eos>", "<pad>"),
        _template(
            "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n",
            "<start_of_turn>model\n",
            "{{ bos_token }}",
        ),
    ),
    "llama-3": (
        ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"),
        ("<|begin_of_text|>", "<|eot_id|>", None),
        _template(
            "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>",
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
            "{{ bos_token }}",
        ),
    ),
    "qwen-2.5": (
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        (None, "<|im_end|>", "<|endoftext|>"),
        _template(_IM.replace("{THINKING}", ""), "<|im_start|>assistant\n", _QWEN_SYSTEM),
    ),
    "qwen-3": (
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        (None, "<|im_end|>", "<|endoftext|>"),
        _template(
            _IM.replace("{THINKING}", "{% if m.role == 'assistant' %}" + _EMPTY + "{% endif %}"),
            "<|im_start|>assistant\n{% if enable_thinking is false %}" + _EMPTY + "{% endif %}",
        ),
    ),
}


@functools.cache
def _learnt() -> str:
    """A byte-level BPE of 600 tokens that cuts text as Qwen2's tokenizer does, in which a run of line breaks is one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((f"{r.ja}\n\n{r.en}\n\n" for r in corpora.questions()[:300]), trainer)
    return tokenizer.to_str()


def make(style: str, *, without: str = ""):
    """The tokenizer of a family, if need be `without` one of its special tokens."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    special, (bos, eos, pad), template = FAMILIES[style]
    backend = Tokenizer.from_str(_learnt())
    # Qwen3's thinking tokens are matched whole, but not special.
    backend.add_tokens([AddedToken(t, normalized=False, special="think" not in t) for t in special if t != without])
    names = {f"{n}_token": t for n, t in (("bos", bos), ("eos", eos), ("pad", pad)) if t and t != without}
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **names)
