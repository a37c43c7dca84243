"""
Weights, gradients and optimiser states dealt to all ranks (FSDP2, Zhao et al. 2023, arXiv
2304.11277), and checkpoints of a training that any number of ranks can go on from.

A layer is put together just before it runs and taken apart after; a rank keeps 1 of so many parts
of everything. Each rank's loss is a part of the whole one, so gradients are to be summed; FSDP2
takes their mean, which is why the loss is multiplied by the number of ranks.

A checkpoint is a folder in torch's distributed format, written beside the last one, which is
removed once the new one is whole: a kill at any time leaves one of them. One process writes and
reads the same format.
"""

import os
import re
import shutil
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from longrope.drafts import flush_folder
from longrope.errors import UserError
from longrope.files import read_json, sha256_of, write_json
from longrope.models.architectures import body_of
from longrope.parallel.place import here

STEP = re.compile(r"step-(\d+)")
METADATA = ".metadata"  # of torch's format: what lies where
SUMS = "sha256.json"  # of every file of a checkpoint


def shard(wrapped: nn.Module, model, device: torch.device) -> None:
    """Deal the weights of `model`, whose loss `wrapped` is, to all ranks, which hold their parts on
    a device. The values are those of rank 0; others may have none. Nothing on one rank.
    """
    if here().world == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (here().world,))
    for layer in layers_of(model):
        _hand_out(layer, device)
        fully_shard(layer, mesh=mesh)
    _hand_out(wrapped, device)
    fully_shard(wrapped, mesh=mesh, reshard_after_forward=False)


def _hand_out(module: nn.Module, device: torch.device) -> None:
    """Give all ranks what rank 0 has of the weights of a module that are not dealt yet."""
    handed: dict[nn.Parameter, nn.Parameter] = {}  # weights may be tied
    for part in module.modules():
        for name, weight in part.named_parameters(recurse=False):
            if isinstance(weight, DTensor):
                continue
            if weight not in handed:
                if here().leads:
                    values = weight.detach().to(device)
                else:
                    values = torch.empty_like(weight, device=device, requires_grad=False)
                dist.broadcast(values, src=0)
                handed[weight] = nn.Parameter(values, requires_grad=weight.requires_grad)
            setattr(part, name, handed[weight])


def layers_of(model) -> list[nn.Module]:
    """The layers of a model, all alike: what is put together at a time."""
    lists = [each for each in body_of(model).children() if isinstance(each, nn.ModuleList)]
    if len(lists) != 1:
        raise UserError(
            f"{type(model).__name__} does not keep its layers in one list: it can be tuned in one"
            " process only"
        )
    return list(lists[0])


def save(folder: Path, step: int, wrapped: nn.Module, optimisers: list) -> None:
    """Keep what trains, after so many steps; all ranks must call it.

    Raises UserError where it cannot be written; the last checkpoint is then still there.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    place, draft = here(), folder / f"step-{step}.part"
    if place.once(lambda: last_step(folder)) == step:
        return  # it is there
    place.once(lambda: _clear(draft))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one process, that it is one
        try:
            dcp.save(
                _state(wrapped, optimisers), checkpoint_id=str(draft), no_dist=place.world == 1
            )
        except CheckpointException as error:
            causes = {str(cause) for cause, _ in error.failures.values()}
            raise UserError(
                f"{folder}: the checkpoint of step {step} cannot be written"
                f" ({'; '.join(sorted(causes))}); the one before is kept: make room, and run the"
                " stage again"
            ) from error
    own = [*draft.glob(f"__{place.rank}_*"), *([draft / METADATA] if place.leads else [])]
    sums = place.gather({path.name: sha256_of(path) for path in own})
    place.once(lambda: _keep(draft, folder / f"step-{step}", sums))


def load(folder: Path, wrapped: nn.Module, optimisers: list) -> int:
    """Take up the last checkpoint; returns its step, 0 if there is none. For all ranks.

    One that is not, to the bit, what was saved is removed, and said so; then the one before it is
    taken up, if it is still there. No file of it is opened before, as torch keeps a part of it
    pickled.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import (
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    place = here()
    step = place.once(lambda: last_step(folder))
    if not step:
        return 0
    if damaged := _damaged(folder / f"step-{step}"):
        place.once(lambda: shutil.rmtree(folder / f"step-{step}"))
        before = place.once(lambda: last_step(folder))
        print(
            f"{folder}: the checkpoint of step {step} is damaged ({', '.join(damaged)}), starting"
            f" from {f'that of step {before}' if before else 'the beginning'}",
            file=sys.stderr,
        )
        return load(folder, wrapped, optimisers)
    state = _state(wrapped, optimisers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(state, checkpoint_id=str(folder / f"step-{step}"), no_dist=place.world == 1)
    options = _options()
    set_model_state_dict(wrapped, state["model"], options=options)
    set_optimizer_state_dict(wrapped, optimisers, state["optimisers"], options=options)
    return step


def last_step(folder: Path) -> int:
    """The step of the newest whole checkpoint in a folder, 0 if there is none."""
    found = [STEP.fullmatch(path.parent.name) for path in folder.glob(f"step-*/{METADATA}")]
    return max((int(each[1]) for each in found if each), default=0)


def whole_weights(model) -> dict[str, torch.Tensor]:
    """All weights, put together on the CPU of rank 0; all ranks must call it."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(
        model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )


def _options():
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(ignore_frozen_params=True, strict=False)


def _state(wrapped: nn.Module, optimisers: list) -> dict:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model, states = get_state_dict(wrapped, optimisers, options=_options())
    return {"model": model, "optimisers": states}


def _clear(draft: Path) -> None:
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)


def _damaged(checkpoint: Path) -> list[str]:
    """The files of a checkpoint whose contents are others than when it was saved; on all ranks."""
    place = here()
    try:
        sums = sorted(read_json(checkpoint / SUMS).items())[place.rank :: place.world]
    except UserError:
        return [SUMS]
    wrong = [
        name
        for name, sum_ in sums
        if not (checkpoint / name).exists() or sha256_of(checkpoint / name) != sum_
    ]
    return sorted(name for part in place.gather(wrong) for name in part)


def _keep(draft: Path, path: Path, sums: list[dict[str, str]]) -> None:
    """Give a whole checkpoint its name, then remove those before it."""
    write_json(draft / SUMS, {name: each for part in sums for name, each in part.items()})
    flush_folder(draft)
    shutil.rmtree(path, ignore_errors=True)
    os.replace(draft, path)
    flush_folder(path.parent)
    for other in path.parent.glob("step-*"):
        if other != path:
            shutil.rmtree(other)
