"""Saves and restores AdamW's state, independently of the number of processes that share it.

`00012.exp_avg` is the first moment of parameter 12. If every process has all parameters, each saves the state of its
share of them; if parameters are sharded (FSDP2), each saves its rows of every one. Either way the pieces of one name,
concatenated in the order of ranks, are the whole tensor, so a run can continue on another number of processes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.nn import Parameter


def piece_of(optimizer: torch.optim.Optimizer, rank: int, world_size: int) -> dict[str, Tensor]:
    """The part of the state that this process saves, copied to the CPU; by names as above."""
    pieces = {}
    for index, parameter in enumerate(_parameters(optimizer)):
        is_sharded = isinstance(parameter, DTensor)
        for name, value in optimizer.state.get(parameter, {}).items():
            if is_sharded and (rank == 0 or value.ndim):
                local = value.to_local() if isinstance(value, DTensor) else value
            elif not is_sharded and index % world_size == rank:
                local = value
            else:
                continue
            pieces[f"{index:05d}.{name}"] = local.detach().to("cpu", copy=True).contiguous()
    return pieces


def put_back(optimizer: torch.optim.Optimizer, saved: Sequence[Mapping[str, Tensor]]) -> None:
    """Restores an optimizer's state.

    Args:
        optimizer: An optimizer over the same parameters in the same order.
        saved: The pieces saved by each process, in the order of ranks.

    Raises:
        ValueError: the state belongs to another model.
    """
    pieces: dict[str, list[Tensor]] = {}
    for part in saved:
        for name, tensor in part.items():
            pieces.setdefault(name, []).append(tensor)
    parameters = list(_parameters(optimizer))
    optimizer.state.clear()
    for name, tensors in pieces.items():
        index, _, kind = name.partition(".")
        if not index.isdigit() or int(index) >= len(parameters):
            raise ValueError(f"there is no parameter {index}")
        parameter = parameters[int(index)]
        whole = torch.cat(tensors) if tensors[0].ndim else tensors[0]
        if whole.ndim and whole.shape != parameter.shape:
            raise ValueError(f"{name} is {tuple(whole.shape)} for a parameter of {tuple(parameter.shape)}")
        optimizer.state[parameter][kind] = _placed_as(parameter, whole)


def _placed_as(parameter: Parameter, whole: Tensor) -> Tensor:
    if not isinstance(parameter, DTensor) or not whole.ndim:
        return whole.to(parameter.device)
    mesh = parameter.device_mesh
    chunks = whole.chunk(mesh.size())
    rank = mesh.get_local_rank()
    local = chunks[rank] if rank < len(chunks) else whole[:0]
    return DTensor.from_local(
        local.to(parameter.device).contiguous(),
        mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def _parameters(optimizer: torch.optim.Optimizer) -> list[Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
