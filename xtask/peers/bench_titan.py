#!/usr/bin/env python3
"""A conversion between a DCP checkpoint and Hugging Face with the classes of TorchTitan 0.2.2, in the steps of its own
scripts, on a CPU: build the module, take its state dict, load, map the names, save. Prints `SECONDS x`, without the
interpreter's start and the imports, with fsync.

usage: bench_titan.py to_hf | from_hf   SOURCE TARGET CONFIG      CONFIG: a config.json of a llama
"""

import dataclasses
import json
import os
import sys
import time

import torch
import torch.distributed.checkpoint as dcp
from torchtitan.components.checkpoint import ModelWrapper
from torchtitan.models.llama3 import llama3_args
from torchtitan.models.llama3.model.model import Transformer
from torchtitan.models.llama3.model.state_dict_adapter import Llama3StateDictAdapter


def module_of(config):
    args = dataclasses.replace(
        llama3_args["debugmodel"],
        dim=config["hidden_size"],
        n_layers=config["num_hidden_layers"],
        n_heads=config["num_attention_heads"],
        n_kv_heads=config["num_key_value_heads"],
        vocab_size=config["vocab_size"],
        max_seq_len=2048,
    )
    with torch.device("cpu"):
        module = Transformer(args)
    hidden = module.layers["0"].feed_forward.w1.weight.shape[0]
    assert hidden == config["intermediate_size"], f"the module has {hidden}, the config {config['intermediate_size']}"
    return module, Llama3StateDictAdapter(args, None)


def to_hf(source, target, config):
    module, adapter = module_of(config)
    state = ModelWrapper(module)._get_state_dict()
    dcp.load(state, checkpoint_id=source, no_dist=True)
    outside = adapter.to_hf(state)
    writer = dcp.HuggingFaceStorageWriter(
        path=target,
        save_distributed=True,
        fqn_to_index_mapping=adapter.fqn_to_index_mapping,
        enable_consolidation=True,
        thread_count_consolidation=5,
    )
    dcp.save(outside, storage_writer=writer, no_dist=True)


def from_hf(source, target, config):
    module, adapter = module_of(config)
    state = ModelWrapper(module)._get_state_dict()
    outside = adapter.to_hf(state)
    dcp.load(outside, storage_reader=adapter.get_hf_storage_reader(source), no_dist=True)
    dcp.save(adapter.from_hf(outside), checkpoint_id=target, no_dist=True)


def fsync_all(path):
    for at, _, names in os.walk(path):
        for name in names:
            with open(os.path.join(at, name), "rb") as file:
                os.fsync(file.fileno())


if __name__ == "__main__":
    operation, source, target, config = sys.argv[1:]
    with open(config) as file:
        config = json.load(file)
    start = time.perf_counter()
    {"to_hf": to_hf, "from_hf": from_hf}[operation](source, target, config)
    fsync_all(target)
    print(f"SECONDS {time.perf_counter() - start:.4f}")
