"""Proves that an environment has a PyTorch that saves and loads checkpoints; prints its version without the build."""

import os
import tempfile
import warnings

warnings.filterwarnings("ignore")
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import numpy
import safetensors.torch
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import zstandard

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
saved = {"w": torch.arange(12, dtype=torch.float32).reshape(3, 4), "step": 7}
with tempfile.TemporaryDirectory() as folder:
    dcp.save(saved, checkpoint_id=folder)
    loaded = {"w": torch.zeros(3, 4), "step": 0}
    dcp.load(loaded, checkpoint_id=folder)
assert loaded["step"] == 7 and torch.equal(loaded["w"], saved["w"]), loaded
assert numpy.array_equal(loaded["w"].numpy(), saved["w"].numpy())
dist.destroy_process_group()
print(torch.__version__.split("+")[0])
