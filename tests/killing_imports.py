"""What the server of tests/killing.py imports once for all its forks: what a study uses of the libraries, which takes seconds each time."""

# ruff: noqa: F401
import bitsandbytes.functional
import datasets
import datasketch
import matplotlib.font_manager
import matplotlib.pyplot
import pandas
import sacrebleu.metrics
import scipy.optimize
import scipy.sparse
import scipy.stats
from IPython.display import HTML
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    Gemma3ForCausalLM,
    PreTrainedTokenizerFast,
)
from trl import SFTConfig, SFTTrainer

from helpers import evaluation, pipeline, report, results, training
from tests import killing
