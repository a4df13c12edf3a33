"""A mixture of NAS-Bench-201's space in eager PyTorch, as the published codes are.

For ``benchmarks.nasbench201``, which compares with it in one run where PyTorch is there
(``pip install torch``; nothing else needs it). Each operation of each edge is a module,
and an edge is the sum of their outputs by weights. What is not needed to compute a step
is left out, so that this is at least as fast as what it stands for.
"""

import torch
from torch import nn
from torch.nn import functional

NODES = 4


def _convolution(inputs, outputs, size, stride=1, affine=False):
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs, affine=affine, track_running_stats=False),
    )


class Edge(nn.Module):
    """All operations but ``none``, by weights."""

    def __init__(self, channels):
        super().__init__()
        self.operations = nn.ModuleList(
            [
                nn.Identity(),
                _convolution(channels, channels, 1),
                _convolution(channels, channels, 3),
                nn.AvgPool2d(3, 1, 1, count_include_pad=False),
            ]
        )

    def forward(self, x, weights):
        """Their weighted sum."""
        pairs = zip(weights, self.operations, strict=True)
        return sum(weight * operation(x) for weight, operation in pairs)


class Cell(nn.Module):
    """The edges between all nodes."""

    def __init__(self, channels):
        super().__init__()
        self.edges = nn.ModuleList(
            Edge(channels) for target in range(NODES) for _ in range(target)
        )

    def forward(self, x, weights):
        """The last node."""
        states, edge = [x], 0
        for target in range(1, NODES):
            total = 0
            for source in range(target):
                total = total + self.edges[edge](states[source], weights[edge])
                edge += 1
            states.append(total)
        return states[-1]


class Reduction(nn.Module):
    """The residual block that halves the image."""

    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, 2 * channels, 3, 2, affine=True),
            _convolution(2 * channels, 2 * channels, 3, affine=True),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False)
        )

    def forward(self, x, _):
        """The image, half as large, with twice the channels."""
        return self.shortcut(x) + self.body(x)


class Steps:
    """Steps on one batch of images, by SGD as the other side takes them."""

    def __init__(self, side, channels, cells, batch, rate):
        torch.manual_seed(0)
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )
        blocks = []
        for stage in range(3):
            if stage:
                blocks.append(Reduction(channels))
                channels *= 2
            blocks += [Cell(channels) for _ in range(cells)]
        self.blocks = nn.ModuleList(blocks)
        self.end = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
        self.classifier = nn.Linear(channels, 10)
        self.theta = torch.full((6, 4), 0.25, requires_grad=True)
        modules = nn.ModuleList([self.stem, self.blocks, self.end, self.classifier])
        self.parameters = list(modules.parameters())
        self.images = torch.randn(batch, 3, side, side)
        self.labels = torch.randint(0, 10, (batch,))
        self.rate = rate

    def take(self, of_parameters, of_weights, steps):
        """Steps that move the parameters, the weights of the mixture, or both."""
        moved = of_parameters * self.parameters + of_weights * [self.theta]
        for _ in range(steps):
            x = self.stem(self.images)
            for block in self.blocks:
                x = block(x, self.theta)
            logits = self.classifier(self.end(x).mean((2, 3)))
            loss = functional.cross_entropy(logits, self.labels)
            slopes = torch.autograd.grad(loss, moved)
            with torch.no_grad():
                for x, slope in zip(moved, slopes, strict=True):
                    x -= self.rate * slope
