"""Muon on matrices, AdamW on everything else, one learning rate for both; and a running average of the weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class MuonAdamW(torch.optim.Optimizer):
    """Two optimizers behind one interface, so that trainers and schedulers see one.

    Muon's step is scaled to match AdamW's RMS (Liu et al., arXiv:2502.16982), which lets both share `lr`.
    """

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in named:
            if not parameter.requires_grad:
                continue
            hidden = parameter.dim() == 2 and "embed" not in name and "head" not in name
            (matrices if hidden else others).append(parameter)
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        adam = torch.optim.AdamW(others, lr=lr, weight_decay=0.0, betas=(0.9, 0.98), fused=True)
        self.parts: tuple[torch.optim.Optimizer, ...] = (muon, adam)
        super().__init__([{"params": matrices}, {"params": others}], {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of both, at the learning rates that a scheduler set on this object."""
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups[0]["lr"] = group["lr"]
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """States of both parts."""
        own = super().state_dict()
        return {"param_groups": own["param_groups"], "state": {}, "parts": [p.state_dict() for p in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore states of both parts."""
        super().load_state_dict({key: state_dict[key] for key in ("param_groups", "state")})
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


def learning_rate(step: int, total: int, warmup: int) -> float:
    """Share of the peak rate: linear up over `warmup` steps, then linear down to 0 at `total`."""
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


class Average:
    """Exponential moving average of a module's parameters."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.values: dict[str, Tensor] = {n: p.detach().clone() for n, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take the current weights in; early steps count more, as in a plain mean."""
        self.steps += 1
        rate = max(1 - self.decay, 1 / (self.steps + 1))
        for name, parameter in module.named_parameters():
            self.values[name].lerp_(parameter.detach(), rate)

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchange the module's weights and the averages; call it twice to get back."""
        for name, parameter in module.named_parameters():
            kept = parameter.detach().clone()
            parameter.copy_(self.values[name])
            self.values[name] = kept

    def state_dict(self) -> dict[str, Any]:
        """Averages and step count."""
        return {"steps": self.steps, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore averages and step count."""
        self.steps, self.values = state["steps"], state["values"]
