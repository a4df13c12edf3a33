"""Training with the losses of earlier children, in float64 numpy."""

import numpy as np

from helpers.written_search import (
    BATCHES,
    CHILDREN,
    DECAY,
    RATE,
    WEIGHT_DECAY,
    Written,
)

SHARE, EPOCHS = 0.4, 3


class Rehearsing(Written):
    def train_with(self, child, earlier, epoch, index):
        """Steps by the weighted sum of the losses; what nobody uses stays.

        Under a penalty, if there is one, whose step is proximal.
        """
        weights = [1.0] if len(earlier) == 0 else [1 - SHARE]
        weights += [SHARE / len(earlier)] * len(earlier) if len(earlier) else []
        rate = RATE * DECAY ** max(epoch - 1, 0)
        for i in range(BATCHES):
            number = (epoch * CHILDREN + index) * BATCHES + i
            batch = self.data[0][number % len(self.data[0])]
            total = {k: np.zeros_like(v) for k, v in self.params.items()}
            used = {k: np.zeros(v.shape, bool) for k, v in self.params.items()}
            for weight, choice in zip(weights, [child, *earlier], strict=True):
                gradient = self.gradient(choice, batch)
                for k, part in self.parts(choice).items():
                    total[k][part] += weight * gradient[k]
                    used[k][part] = True
            for k, there in used.items():
                step = total[k] + WEIGHT_DECAY * self.params[k]
                theta = self.params[k] - rate * there * step
                if self.penalty is not None:
                    held = rate * self.penalty.strength * self.fisher[k] * there
                    theta = (theta + held * self.anchor[k]) / (1 + held)
                self.params[k] = theta
