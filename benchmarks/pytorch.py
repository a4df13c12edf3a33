"""The recurrent search's steps in eager PyTorch, written as its published code does.

For ``benchmarks.search``, which compares with it in one run where PyTorch is there
(``pip install torch``; nothing else needs it). A child as Benyahia et al. (2019) train
it: two products a node and a time step, each node's weights in parameters of their
own, the penalty as a term of the loss, autograd for the gradient. What is not needed
to compute a step is left out, so that this is at least as fast as what it stands for.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

ACTIVATIONS = (torch.tanh, torch.relu, lambda x: x, torch.sigmoid)


class Shared(nn.Module):
    """The shared parameters, and one child of them at a time."""

    def __init__(self, words: int, hidden: int, nodes: int):
        super().__init__()
        self.nodes = nodes
        self.embedding = nn.Embedding(words, hidden)
        self.output_bias = nn.Parameter(torch.zeros(words))
        self.input = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))
        self.recurrent = nn.ParameterList(torch.empty(hidden, hidden) for _ in range(2))
        self.edges = nn.ModuleDict(
            {
                f"{i}_{j}": nn.ModuleList(
                    nn.Linear(hidden, hidden, bias=False) for _ in range(2)
                )
                for j in range(1, nodes)
                for i in range(j)
            }
        )
        self.norm = nn.BatchNorm1d(hidden)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.025, 0.025)

    def used(self, parents):
        """The parameters of the edges of a child."""
        for j, i in enumerate(parents, 1):
            yield from self.edges[f"{i}_{j}"].parameters()

    def forward(self, tokens, state, activations, parents, rates=None):
        """Logits ``[batch * time, words]`` and the last state."""
        rates = rates or dict.fromkeys(("embedding", "input", "output", "recurrent"), 0)
        table = _drop(self.embedding.weight, rates["embedding"], (-1, 1))
        x = _drop(functional.embedding(tokens, table), rates["input"], (-1, 1, -1))
        recurrent = [_drop(w, rates["recurrent"], (-1, -1)) for w in self.recurrent]
        leaves = [j for j in range(self.nodes) if j not in parents]
        outputs = []
        for t in range(tokens.shape[1]):
            gate, value = (
                linear(x[:, t]) + functional.linear(state, w)
                for linear, w in zip(self.input, recurrent, strict=True)
            )
            states = [_mix(state, gate, value, activations[0])]
            for j, i in enumerate(parents, 1):
                gate, value = (linear(states[i]) for linear in self.edges[f"{i}_{j}"])
                states.append(_mix(states[i], gate, value, activations[j]))
            outputs.append(self.norm(sum(states[j] for j in leaves) / len(leaves)))
            norm = states[-1].norm(dim=-1, keepdim=True).detach()
            state = states[-1] * (25 / norm).clamp(max=1)
        output = _drop(torch.stack(outputs, 1), rates["output"], (-1, 1, -1))
        logits = functional.linear(output, self.embedding.weight, self.output_bias)
        return logits.flatten(0, 1), state.detach()


def _mix(parent, gate, value, activation):
    gate = torch.sigmoid(gate)
    return gate * ACTIVATIONS[activation](value) + (1 - gate) * parent


def _drop(x, rate, shape):
    if not rate:
        return x
    sizes = [x.shape[i] if size == -1 else size for i, size in enumerate(shape)]
    return x * torch.bernoulli(torch.full(sizes, 1 - rate)) / (1 - rate)


class Controller(nn.Module):
    """An LSTM that draws a child, a decision at a time."""

    def __init__(self, nodes: int, size: int = 100):
        super().__init__()
        self.sizes = [len(ACTIVATIONS)]
        for j in range(1, nodes):
            self.sizes += [j, len(ACTIVATIONS)]
        self.cell = nn.LSTMCell(size, size)
        self.embedding = nn.Embedding(sum(self.sizes), size)
        self.heads = nn.ModuleList(nn.Linear(size, n) for n in self.sizes)

    def forward(self):
        """A child, the log-probability and the entropy of its decisions."""
        x, state = torch.zeros(1, self.cell.input_size), None
        drawn, log_probs, entropies, first = [], [], [], 0
        for head, size in zip(self.heads, self.sizes, strict=True):
            state = self.cell(x, state)
            logits = 2.5 * torch.tanh(head(state[0]) / 5)
            choice = torch.distributions.Categorical(logits=logits)
            action = choice.sample()
            log_probs.append(choice.log_prob(action))
            entropies.append(choice.entropy())
            drawn.append(int(action))
            x, first = self.embedding(action + first), first + size
        return drawn, torch.cat(log_probs), torch.cat(entropies)


class Steps:
    """The three steps of a search, each a call."""

    def __init__(self, words, hidden, nodes, batch, length, rates, child):
        torch.manual_seed(0)
        self.shared, self.controller = Shared(words, hidden, nodes), Controller(nodes)
        tokens = np.random.default_rng(0).integers(0, words, (batch, length + 1))
        self.tokens, self.rates = torch.from_numpy(tokens), rates
        self.zero = torch.zeros(batch, hidden)
        self.activations, self.parents = child
        self.sgd = torch.optim.SGD(self.shared.parameters(), lr=20, weight_decay=1e-7)
        self.adam = torch.optim.Adam(self.controller.parameters(), lr=3.5e-4)
        self.anchor = [p.detach().clone() for p in self.shared.used(self.parents)]
        self.fisher = [torch.ones_like(a) for a in self.anchor]

    def _nats(self, activations, parents, rates=None):
        inputs, targets = self.tokens[:, :-1], self.tokens[:, 1:]
        logits, _ = self.shared(inputs, self.zero, activations, parents, rates)
        return functional.cross_entropy(logits, targets.reshape(-1))

    def train(self):
        """One of a child's batches, under the penalty."""
        self.sgd.zero_grad(set_to_none=True)
        loss = self._nats(self.activations, self.parents, self.rates)
        used = self.shared.used(self.parents)
        for weight, anchor, fisher in zip(used, self.anchor, self.fisher, strict=True):
            loss = loss + 0.5 * (fisher * (weight - anchor) ** 2).sum()
        loss.backward()
        nn.utils.clip_grad_norm_(self.shared.parameters(), 0.25)
        self.sgd.step()

    def estimate(self):
        """The child's Fisher, the squared gradient of a batch."""
        self.sgd.zero_grad(set_to_none=True)
        self._nats(self.activations, self.parents).backward()
        with torch.no_grad():
            used = self.shared.used(self.parents)
            for weight, fisher in zip(used, self.fisher, strict=True):
                fisher.mul_(0.1).add_(weight.grad**2, alpha=0.9)

    def learn(self):
        """One of the controller's steps."""
        drawn, log_probs, entropies = self.controller()
        with torch.no_grad():
            nats = self._nats(drawn[0::2], drawn[1::2])
        reward = 80 / torch.exp(nats) + 1e-4 * entropies.detach()
        self.adam.zero_grad()
        (-log_probs * reward).sum().backward()
        self.adam.step()
