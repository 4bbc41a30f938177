#!/usr/bin/env python3
"""Saves a Llama-like checkpoint of about GIB GiB float32 (291 tensors, random) from two ranks, sharded on dim 0.

usage: bench_checkpoint.py FOLDER GIB
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

RANKS = 2


def shapes(gib):
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


def save(rank, folder, gib, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    random = torch.Generator().manual_seed(rank)
    state = {}
    for name, shape in shapes(gib).items():
        local = torch.rand((shape[0] // RANKS, *shape[1:]), generator=random)
        state[name] = DTensor.from_local(local, mesh, [Shard(0)], run_check=False)
    dcp.save(state, checkpoint_id=folder)
    dist.destroy_process_group()


if __name__ == "__main__":
    folder, gib = sys.argv[1], float(sys.argv[2])
    store = os.path.abspath(folder) + ".store"
    mp.spawn(save, args=(folder, gib, store), nprocs=RANKS)
    if os.path.exists(store):
        os.remove(store)
