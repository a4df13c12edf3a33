"""Whether the parts of a search go together."""

from typing import TYPE_CHECKING

from wpl_jax.common.settings import require

if TYPE_CHECKING:
    from wpl_jax.search import Search


def check_compatibility(search: "Search") -> None:
    """Checks the strategy, protection, optimizer and update rule with each other.

    Args:
      search: The search; each part is right by itself.

    Raises:
      SettingError: About the part that does not fit.
    """
    decisions = search.task.space.decisions
    of_strategy = getattr(search.strategy, "space", search.task.space).decisions
    expected = f"one of the task's space, {search.task.space!r}"
    require(search, "strategy", of_strategy == decisions, expected)
    search.protection.check_task(search.task)
    search.strategy.check_children(search.children_per_step)
    search.optimizer.check_children(search.task.space, search.children_per_step)
    fits = not (search.optimizer.of_children and search.strategy.differentiable)
    expected = (
        "one whose steps do not depend on the child, as this strategy trains "
        "mixtures, or another child with each batch"
    )
    require(search, "optimizer", fits, expected)
    learns = search.strategy.differentiable or search.strategy.uses_norms
    needs_more = search.protection.companions or learns
    fits = not (search.update_rule.one_path and needs_more)
    expected = (
        "one for children with companions, or for strategies that learn in each step"
    )
    require(search, "update_rule", fits, expected)
