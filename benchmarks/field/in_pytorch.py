"""BackPACK's sums of squared per-example gradients, in PyTorch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.field.models import EPSILON, UnsupportedError, statistics

# BackPACK 1.7.1 warns that it "does not have an extension for Module" of these classes
# "although the module has parameters", and leaves out their squares.
_NO_EXTENSION = "SumGradSquared does not have an extension for Module"
WHY = {
    "weight standardization": f"{_NO_EXTENSION} of standardized weights",
    "transformer block": f"{_NO_EXTENSION} LayerNorm",
    "GRU": f"{_NO_EXTENSION} GRU",
}


def _build(name: str, weights: dict[str, np.ndarray]) -> nn.Sequential:
    if name in WHY:
        raise UnsupportedError(WHY[name])
    layers: list[nn.Module] = []
    for i in range(4):
        w = weights[f"w{i}"]
        if w.ndim == 2:
            layers.append(nn.Linear(*w.shape))
        else:
            normalized = f"scale{i}" in weights
            conv = nn.Conv2d(w.shape[2], w.shape[3], 3, padding=1, bias=not normalized)
            layers.append(conv)
            if normalized:
                norm = nn.BatchNorm2d(w.shape[3], eps=EPSILON)
                mean, variance = statistics(w.shape[3])
                norm.running_mean.copy_(torch.from_numpy(mean))
                norm.running_var.copy_(torch.from_numpy(variance))
                layers.append(norm)
        if i == 3:
            break
        layers.append(nn.ReLU())
        if w.ndim == 4:
            layers += [nn.AvgPool2d(2)] if i < 2 else [nn.AdaptiveAvgPool2d(1)]
    if weights["w0"].ndim == 4:
        layers.insert(-1, nn.Flatten())
    return nn.Sequential(*layers).eval()


def _by_name(network: nn.Sequential) -> dict[str, nn.Parameter]:
    """Parameters by the names of the weights."""
    found: dict[str, nn.Parameter] = {}
    place = -1
    for layer in network:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            place += 1
            found[f"w{place}"] = layer.weight
            if layer.bias is not None:
                found[f"b{place}"] = layer.bias
        elif isinstance(layer, nn.BatchNorm2d):
            found |= {f"scale{place}": layer.weight, f"offset{place}": layer.bias}
    return found


def _to_torch(x: np.ndarray) -> torch.Tensor:
    order = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[x.ndim]
    return torch.from_numpy(np.ascontiguousarray(x.transpose(order)))


def _from_torch(x: torch.Tensor) -> np.ndarray:
    order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[x.ndim]
    return x.detach().numpy().transpose(order)


def make(
    method: str, name: str, weights: dict[str, np.ndarray], x: Any, y: Any
) -> Callable[[], dict[str, np.ndarray]]:
    """A call that computes a gradient, or BackPACK's squares, by name."""
    torch.set_num_threads(1)  # as many as a worker has cores
    network = _build(name, weights)
    parameters = _by_name(network)
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(_to_torch(weights[key]))
    if x.ndim == 4:
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y).long()
    if method == "gradient in PyTorch":
        loss = nn.CrossEntropyLoss()

        def of_gradient():
            network.zero_grad()
            loss(network(inputs), labels).backward()
            return {key: _from_torch(p.grad) for key, p in parameters.items()}

        return of_gradient

    from backpack import backpack, extend, extensions

    network, loss = extend(network), extend(nn.CrossEntropyLoss(reduction="sum"))

    def of_squares():
        network.zero_grad()
        with backpack(extensions.SumGradSquared()):
            loss(network(inputs), labels).backward()
        return {
            key: _from_torch(p.sum_grad_squared) / len(labels)
            for key, p in parameters.items()
        }

    return of_squares
