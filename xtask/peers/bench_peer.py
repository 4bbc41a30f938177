#!/usr/bin/env python3
"""One operation of PyTorch on a checkpoint, timed without the interpreter's start: prints `SECONDS x`, and where bytes
are counted `WANTED_BYTES n` and `READ_BYTES n` (what the process asked of the kernel).

usage: bench_peer.py dcp_to_torch_save | hf_consolidated | load_columns   SOURCE TARGET
       bench_peer.py load_eighth SOURCE TARGET DIM
       bench_peer.py save | async_save_returns | async_save_done   GIB TARGET
"""

import os
import sys
import time

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard


def fsync_all(path):
    files = [path] if os.path.isfile(path) else [os.path.join(at, f) for at, _, names in os.walk(path) for f in names]
    for name in files:
        with open(name, "rb") as file:
            os.fsync(file.fileno())


def to_torch_save(source, target):
    dcp_to_torch_save(source, target)
    fsync_all(target)


def hf_consolidated(source, target):
    """The whole state in memory, then PyTorch's writer of safetensors with its consolidation."""
    metadata = dcp.FileSystemReader(source).read_metadata().state_dict_metadata
    state = {name: torch.empty(tensor.size) for name, tensor in metadata.items()}
    dcp.load(state, checkpoint_id=source, no_dist=True)
    files = {name: 1 for name in state}
    writer = dcp.HuggingFaceStorageWriter(
        target, save_distributed=True, enable_consolidation=True, fqn_to_index_mapping=files
    )
    dcp.save(state, storage_writer=writer, no_dist=True)
    fsync_all(target)


def load_columns_on(rank, source, store, seconds):
    """Loads into tensors sharded on dim 1: every rank wants a half of every row."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    state = {}
    for name, tensor in dcp.FileSystemReader(source).read_metadata().state_dict_metadata.items():
        shape, dim = list(tensor.size), min(1, len(tensor.size) - 1)
        shape[dim] //= 2
        state[name] = DTensor.from_local(torch.ones(shape), mesh, [Shard(dim)], run_check=False)
    dist.barrier()
    start = time.perf_counter()
    dcp.load(state, checkpoint_id=source)
    dist.barrier()
    seconds[rank] = time.perf_counter() - start
    dist.destroy_process_group()


def load_columns(source, target):
    seconds = mp.get_context("spawn").Array("d", 2)
    store = os.path.abspath(target) + ".store"
    mp.spawn(load_columns_on, args=(source, store, seconds), nprocs=2)
    if os.path.exists(store):
        os.remove(store)
    return max(seconds)


def read_bytes():
    with open("/proc/self/io") as counters:
        return int(next(line for line in counters if line.startswith("rchar:")).split()[1])


def load_eighth(source, target, dim):
    """Rank 3 of 8 loads its slice, alone: the process group is PyTorch's fake one, which sends nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=3, world_size=8)
    mesh = init_device_mesh("cpu", (8,))
    state, wanted = {}, 0
    for name, tensor in dcp.FileSystemReader(source).read_metadata().state_dict_metadata.items():
        shape = list(tensor.size)
        shape[int(dim)] //= 8
        local = torch.ones(shape)
        wanted += local.nbytes
        state[name] = DTensor.from_local(local, mesh, [Shard(int(dim))], run_check=False)
    before, start = read_bytes(), time.perf_counter()
    dcp.load(state, checkpoint_id=source, no_dist=True)
    seconds = time.perf_counter() - start
    print(f"WANTED_BYTES {wanted}\nREAD_BYTES {read_bytes() - before}")
    return seconds


def state(gib):
    from bench_checkpoint import shapes

    random = torch.Generator().manual_seed(1)
    return {name: torch.rand(shape, generator=random) for name, shape in shapes("rows", float(gib)).items()}


def save(gib, target):
    tensors = state(gib)
    start = time.perf_counter()
    dcp.save(tensors, checkpoint_id=target, no_dist=True)
    return time.perf_counter() - start


def async_save(gib, target, until):
    tensors = state(gib)
    dist.init_process_group("gloo", init_method=f"file://{target}.store", rank=0, world_size=1)
    start = time.perf_counter()
    done = dcp.async_save(tensors, checkpoint_id=target)
    returned = time.perf_counter() - start
    done.result()
    seconds = returned if until == "returns" else time.perf_counter() - start
    dist.destroy_process_group()
    return seconds


OPERATIONS = {
    "save": save,
    "async_save_returns": lambda gib, target: async_save(gib, target, "returns"),
    "async_save_done": lambda gib, target: async_save(gib, target, "done"),
    "dcp_to_torch_save": to_torch_save,
    "hf_consolidated": hf_consolidated,
    "load_columns": load_columns,
    "load_eighth": load_eighth,
}

if __name__ == "__main__":
    operation, *args = sys.argv[1:]
    start = time.perf_counter()
    inner = OPERATIONS[operation](*args)
    print(f"SECONDS {inner or time.perf_counter() - start:.4f}")
