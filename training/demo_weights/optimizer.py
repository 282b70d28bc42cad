"""Muon for the matrices of the transformer, AdamW for everything else.

Source of Muon: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024), with the scale of Liu
et al., "Muon is Scalable for LLM Training" (arXiv 2502.16982), which makes its learning rate comparable with AdamW's.
Matrices of equal shape are orthogonalised together in one batch.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import torch
from torch import Tensor, nn

MOMENTUM: Final = 0.95
"""Nesterov momentum of Muon."""

ITERATIONS: Final = 5
"""Newton-Schulz steps."""

COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
"""Quintic whose iteration drives singular values towards 1."""

UPDATE_SIZE: Final = 0.2
"""Root mean square of an update in units of the learning rate, as AdamW's usually is."""

ADAM_BETAS: Final = (0.9, 0.98)
"""Decay of AdamW's moments."""


def orthogonalise(gradients: Tensor) -> Tensor:
    """Replace singular values by about 1.

    Args:
        gradients: (N, rows, columns).

    Returns:
        (N, rows, columns) in bf16.
    """
    a, b, c = COEFFICIENTS
    x = gradients.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result


def _matrices(name: str, weight: Tensor) -> int:
    """How many independent matrices a parameter stacks; 0 where it is not Muon's."""
    if "blocks." not in name or weight.ndim != 2:
        return 0
    return 3 if "attn.qkv" in name else 1


class MuonAdamW:
    """Updates a network in place.

    Args:
        network: Its parameters; gradients must be there at every step.
        weight_decay: Decoupled, for matrices and kernels.
        use_muon: False leaves all to AdamW.
    """

    def __init__(self, network: nn.Module, weight_decay: float, *, use_muon: bool = True) -> None:
        self.weight_decay = weight_decay
        self._groups: dict[tuple[int, int], list[tuple[Tensor, int]]] = defaultdict(list)
        decayed: list[Tensor] = []
        plain: list[Tensor] = []
        for name, weight in network.named_parameters():
            stacked = _matrices(name, weight) if use_muon else 0
            if stacked:
                self._groups[weight.shape[0] // stacked, weight.shape[1]].append((weight, stacked))
            else:
                (decayed if weight.ndim > 1 and "embed" not in name else plain).append(weight)
        self._momenta = {
            shape: torch.zeros(sum(n for _, n in group), *shape, device=group[0][0].device)
            for shape, group in self._groups.items()
        }
        fused = next(network.parameters()).is_cuda
        parameters = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self._adam = torch.optim.AdamW(parameters, lr=0.0, betas=ADAM_BETAS, fused=fused)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Apply the gradients once."""
        for group in self._adam.param_groups:
            group["lr"] = learning_rate
        self._adam.step()
        for shape, members in self._groups.items():
            gradients = torch.cat([_gradient(weight).view(n, *shape) for weight, n in members])
            momentum = self._momenta[shape]
            momentum.lerp_(gradients, 1 - MOMENTUM)
            update = orthogonalise(gradients.lerp(momentum, MOMENTUM)).float()
            update *= learning_rate * UPDATE_SIZE * max(shape) ** 0.5
            parts = torch.split(update, [n for _, n in members])
            weights = [weight for weight, _ in members]
            torch._foreach_mul_(weights, 1 - learning_rate * self.weight_decay)
            torch._foreach_sub_(weights, [p.reshape(w.shape) for p, w in zip(parts, weights, strict=True)])


def _gradient(weight: Tensor) -> Tensor:
    if weight.grad is None:
        message = f"a parameter of shape {tuple(weight.shape)} has no gradient: call backward() before step()"
        raise RuntimeError(message)
    return weight.grad
