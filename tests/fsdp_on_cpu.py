"""`python -m tests.fsdp_on_cpu FOLDER`: a process of `helpers.distributed` in which accelerate uses FSDP on a CPU.

By itself accelerate (1.15) has FSDP for GPUs only: on a CPU `AcceleratorState` takes the same configuration for DDP, without a word.
"""

import sys
from pathlib import Path

import accelerate.accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from helpers import distributed

_init, _prepare = AcceleratorState.__init__, accelerate.accelerator.fsdp2_prepare_model


def _init_as_on_gpus(self, *args, fsdp_plugin=None, **kwargs):
    _init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        if self.mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self.mixed_precision)
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def _prepare_and_check(accelerator, model):
    model = _prepare(accelerator, model)
    assert all(isinstance(p, DTensor) and p.to_local().numel() < p.numel() for p in model.parameters()), "each weight is shared out, NF4 too"
    assert sum(isinstance(m, FSDPModule) for m in model.modules()) > model.config.num_hidden_layers, "layer by layer"
    return model


if __name__ == "__main__":
    AcceleratorState.__init__ = _init_as_on_gpus
    accelerate.accelerator.fsdp2_prepare_model = _prepare_and_check
    distributed._work(Path(sys.argv[1]))
