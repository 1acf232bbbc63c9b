"""Networks in shards (FSDP2), and what is needed of tensors that may be shards."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fastsemi.common.precision import Precision
from fastsemi.parallel import processes


def shard(networks: list[nn.Module], precision: Precision) -> None:
    """Shard networks in place over all processes, block by block (FSDP2).

    Weights are gathered in `precision`, gradients are added up in fp32, and the optimizer sees fp32 shards.
    Networks whose weights are of another type (a teacher in half precision) are gathered as they are.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    device = precision.device
    mesh = init_device_mesh(device.type, (processes.world(),))
    for network in dict.fromkeys(networks):
        whole = all(p.dtype == torch.float32 for p in network.parameters())
        cast = precision.dtype if whole and precision.dtype != torch.float32 else None
        policy = MixedPrecisionPolicy(param_dtype=cast, reduce_dtype=torch.float32 if cast else None)
        for block in blocks(network):
            fully_shard(block, mesh=mesh, mp_policy=policy)
        # Left gathered after a pass without gradient, weights outside the blocks would not be the shards.
        fully_shard(network, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The repeated parts of a timm network or a masked autoencoder: children of what is called `blocks`."""
    for name, module in network.named_modules():
        if name.rsplit(".", 1)[-1] == "blocks" and isinstance(module, nn.Sequential | nn.ModuleList):
            yield from module


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; operations on it change the tensor."""
    # Told by its method: importing DTensor costs half a second, also where there is a single process.
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor.detach()


def whole(tensor: Tensor) -> Tensor:
    """A tensor without shards; all processes must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def whole_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network without shards, on the CPU; all processes must ask for it."""
    return {name: whole(tensor).cpu() for name, tensor in network.state_dict().items()}
