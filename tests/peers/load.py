"""Loads a checkpoint that this project wrote with the real PyTorch, and compares every tensor bit for bit.

usage: load.py dcp FOLDER EXPECTED          one process, torch.distributed.checkpoint
       load.py dcp-resharded FOLDER EXPECTED  two processes, each tensor as a DTensor sharded over its last dim
       load.py pt FILE EXPECTED             torch.load(weights_only=True), again with mmap=True
       load.py safetensors FILE EXPECTED    safetensors.torch.load_file

EXPECTED is a safetensors file of the full tensors. Prints `equal N` for N tensors.
"""

import sys

import torch
from safetensors import safe_open


def raw(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)


def expected(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}


def compare(found, wanted):
    for name, tensor in wanted.items():
        assert name in found, f"{name} is missing"
        own = found[name]
        assert own.dtype == tensor.dtype and own.shape == tensor.shape, f"{name}: {own.dtype} {own.shape}"
        assert torch.equal(raw(own), raw(tensor)), f"{name}: bytes differ"
    return len(wanted)


def flatten(nested, prefix=()):
    if isinstance(nested, torch.Tensor):
        return {".".join(prefix): nested}
    items = nested.items() if isinstance(nested, dict) else enumerate(nested) if isinstance(nested, list) else ()
    return {name: value for key, child in items for name, value in flatten(child, (*prefix, str(key))).items()}


def dcp_load(folder, wanted):
    import torch.distributed.checkpoint as dcp

    found = {name: torch.empty_like(tensor) for name, tensor in wanted.items()}
    dcp.load(found, checkpoint_id=folder, **({"no_dist": True} if "no_dist" in dcp.load.__code__.co_varnames else {}))
    return compare(found, wanted)


def worker(rank, folder, path, port):
    import os

    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    wanted = expected(path)
    state, parts = {}, {}
    for name, tensor in wanted.items():
        dim = tensor.dim() - 1
        if dim < 0 or tensor.shape[dim] < 2:
            state[name], parts[name] = torch.empty_like(tensor), tensor
            continue
        part = tensor.chunk(2, dim)[rank].contiguous()
        local = torch.empty_like(part)
        state[name] = DTensor.from_local(
            local, mesh, [Shard(dim)], run_check=False, shape=tensor.shape, stride=tensor.contiguous().stride()
        )
        parts[name] = part
    dcp.load(state, checkpoint_id=folder)
    found = {name: value.to_local() if isinstance(value, DTensor) else value for name, value in state.items()}
    count = compare(found, parts)
    if rank == 0:
        print(f"equal {count}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


def main():
    mode, path, reference = sys.argv[1:]
    if mode == "dcp-resharded":
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        torch.multiprocessing.spawn(worker, args=(path, reference, port), nprocs=2)
        return
    wanted = expected(reference)
    if mode == "dcp":
        count = dcp_load(path, wanted)
    elif mode == "pt":
        count = compare(flatten(torch.load(path, weights_only=True)), wanted)
        compare(flatten(torch.load(path, weights_only=True, mmap=True)), wanted)
    else:
        from safetensors.torch import load_file

        count = compare(load_file(path), wanted)
    print(f"equal {count}")


if __name__ == "__main__":
    main()
