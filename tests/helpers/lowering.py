"""Programs lowered for accelerators, of which none is needed."""

from collections.abc import Iterable

from jax import export

from benchmarks.programs import Program

PLATFORMS = ("cuda", "tpu")


def lower(programs: Iterable[Program]) -> dict[str, int]:
    """Lowers programs for both accelerators.

    Returns:
      By name, the bytes of the program in StableHLO.
    """
    found = {}
    for program in programs:
        make = export.export(program.jit(), platforms=PLATFORMS)
        exported = make(*program.arguments)
        assert exported.platforms == PLATFORMS
        assert program.name not in found
        found[program.name] = len(exported.mlir_module_serialized)
    return found
