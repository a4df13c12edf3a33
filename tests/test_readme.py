"""The README's code runs as it stands."""

import re
from pathlib import Path

import jax
import numpy as np

README = Path(__file__).parents[1] / "README.md"


def test_the_python_blocks_run_in_order():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    names = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    # The optimizer that the README builds holds what it says it holds.
    tx, state, params = names["tx"], names["state"], {"w": np.ones((3, 2)) + 1}
    params["b"] = np.zeros(2)
    updates, _ = tx.update(jax.tree.map(np.zeros_like, params), state, params)
    # By hand: F is 4/3 for each of the six w and 4 for the two b, 2/3 and 2 of mean
    # 1; so w goes the share 2/3 / (1 + 2/3) of its way from 2 back to the anchor 1.
    np.testing.assert_allclose(updates["w"], -0.4, rtol=1e-6)
    np.testing.assert_array_equal(updates["b"], 0)
