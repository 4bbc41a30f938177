"""Where PyTorch's FSDP2 and DTensor put a tensor of experts, cut as torchtitan v0.2.2 cuts it (apply_moe_ep_tp and apply_fsdp
of models/llama4/infra/parallelize.py), for every rank of a job that is only pretended.

usage: experts.py 'DP_SHARD,CP,TP,EP,ETP,SHAPE0xSHAPE1x...,TP_DIM' ...     (TP_DIM: - where tensor parallelism replicates it)

Prints one line per rank and case: the case's number, the rank, offsets and sizes, comma-separated.
"""

import os
import sys

import torch
import torch._dynamo  # by fully_shard otherwise, once in every child
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.testing._internal.distributed.fake_pg import FakeStore


def box(rank, dp_shard, cp, tp, ep, etp, shape, tp_dim):
    efsdp = dp_shard * cp * tp // (etp * ep)
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=efsdp * ep * etp)
    mesh = init_device_mesh("cpu", (efsdp, ep, etp), mesh_dim_names=("efsdp", "ep", "etp"))
    module = torch.nn.Module()
    if etp > 1:
        placements = [Shard(0), Replicate() if tp_dim is None else Shard(tp_dim)]
        tensor = distribute_tensor(torch.zeros(shape), mesh["ep", "etp"], placements)
    else:
        tensor = distribute_tensor(torch.zeros(shape), mesh["ep"], [Shard(0)])
    module.register_parameter("w", torch.nn.Parameter(tensor))
    placement_fn = (lambda _: Shard(1)) if efsdp * ep > shape[0] else None
    fully_shard(module, mesh=mesh["efsdp"], shard_placement_fn=placement_fn)
    sizes, offsets = compute_local_shape_and_global_offset(module.w.shape, module.w.device_mesh, module.w.placements)
    assert tuple(module.w.to_local().shape) == tuple(sizes)
    dist.destroy_process_group()
    return offsets, sizes


def in_child(number, rank, case):
    """A process of its own: PyTorch keeps the first rank that it was told."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        offsets, sizes = box(rank, *case)
        print(number, rank, ",".join(map(str, offsets)), ",".join(map(str, sizes)), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, f"rank {rank} of case {number} failed"


for number, case in enumerate(sys.argv[1:]):
    *degrees, shape, tp_dim = case.split(",")
    dp_shard, cp, tp, ep, etp = map(int, degrees)
    shape, tp_dim = tuple(map(int, shape.split("x"))), None if tp_dim == "-" else int(tp_dim)
    for rank in range(dp_shard * cp * tp):
        in_child(number, rank, (dp_shard, cp, tp, ep, etp, shape, tp_dim))
