#!/usr/bin/env python3
"""Saves a checkpoint of about GIB GiB float32, random.

rows:      a Llama-like model of 291 tensors from two ranks, sharded on dim 0
columns:   the same, sharded on dim 1 (tensors of one dim on that)
one_chunk: one tensor of 16,384 columns from one rank

usage: bench_checkpoint.py rows | columns | one_chunk   FOLDER GIB
"""

import os
import sys

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

RANKS = {"rows": 2, "columns": 2, "one_chunk": 1}


def shapes(kind, gib):
    if kind == "one_chunk":
        return {"weight": (int(gib * 2**30) // (4 * 16384), 16384)}
    scale = (gib / 2.03) ** 0.5
    width, hidden, vocabulary = (int(n * scale) // 16 * 16 for n in (1024, 3840, 16384))
    tensors = {"tok_embeddings.weight": (vocabulary, width)}
    for layer in range(32):
        at = f"layers.{layer}."
        tensors |= {f"{at}attention.{name}.weight": (width, width) for name in ("wq", "wk", "wv", "wo")}
        tensors |= {f"{at}feed_forward.{name}.weight": (hidden, width) for name in ("w1", "w3")}
        tensors[f"{at}feed_forward.w2.weight"] = (width, hidden)
        tensors |= {f"{at}{name}.weight": (width,) for name in ("attention_norm", "ffn_norm")}
    return tensors | {"norm.weight": (width,), "output.weight": (vocabulary, width)}


def save(rank, kind, folder, gib, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS[kind])
    mesh = init_device_mesh("cpu", (RANKS[kind],))
    random = torch.Generator().manual_seed(rank)
    state = {}
    for name, shape in shapes(kind, gib).items():
        dim = min(len(shape) - 1, int(kind == "columns"))
        local = list(shape)
        local[dim] //= RANKS[kind]
        state[name] = DTensor.from_local(torch.rand(local, generator=random), mesh, [Shard(dim)], run_check=False)
    dcp.save(state, checkpoint_id=folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    kind, folder, gib = sys.argv[1], sys.argv[2], float(sys.argv[3])
    store = os.path.abspath(folder) + ".store"
    mp.spawn(save, args=(kind, folder, gib, store), nprocs=RANKS[kind])
    if os.path.exists(store):
        os.remove(store)
