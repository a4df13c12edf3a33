"""Compiles the paper's configurations for accelerators that are not at hand.

python -m benchmarks.ahead_of_time --platform=tpu [--topology=v5e:2x2] [--chips=4]
python -m benchmarks.ahead_of_time --platform=cuda [--chips=2]

XLA compiles for a description of the devices, with their compiler (``libtpu``, or the
CUDA plugin) and without a device. ``make compile-tpu`` and ``make compile-cuda`` set it
up. A row is a program: the seconds of compiling it, the bytes of its code, arguments
and temporaries on one chip, and for a TPU what XLA's cost model says of it.
"""

import dataclasses
import importlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before JAX is imported: nothing is run, and no metadata server is asked for a slice.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TPU_SKIP_MDS_QUERY"] = "1"
os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
# Without a device no kernel can be timed to choose it.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_gpu_autotune_level=0"
)

import jax
import numpy as np
from absl import app, flags
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarks import programs
from benchmarks.programs import Program
from wpl_jax.devices.parallel import Devices
from wpl_jax.devices.sharded import Sharded

_PLATFORM = flags.DEFINE_enum(
    "platform", "tpu", ["tpu", "cuda"], "What to compile for."
)
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x2", "The slice of TPUs.")
_CHIPS = flags.DEFINE_integer("chips", 1, "How many of its chips a search uses.")
_CONFIG = flags.DEFINE_multi_string(
    "config", ["enas_rnn_ptb", "enas_cnn_cifar10"], "Modules of configs/."
)
_ONLY = flags.DEFINE_multi_string(
    "only", [], "Names of programs; all if none is given."
)
_ESTIMATOR = flags.DEFINE_string(
    "estimator", "", "Of the penalties; as configured if ''."
)
_OUTPUT = flags.DEFINE_string("output", "", "File for the figures as JSON.")

# A part of XLA's description of an H100; a compiler reads no more of it.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def describe_devices(platform: str, topology: str, chips: int) -> list[jax.Device]:
    """Devices that programs can be compiled for, and not run on.

    Args:
      platform: ``"tpu"`` or ``"cuda"``.
      topology: The slice of TPUs, as ``"v5e:2x2"``.
      chips: How many devices.

    Raises:
      ValueError: If the slice has fewer.
    """
    if platform == "tpu":
        found = topologies.get_topology_desc(topology, "tpu").devices
    else:
        found = topologies.get_topology_desc(
            "", "cuda", topology=f"1x1x{chips}", target_config=H100
        ).devices
    if len(found) < chips:
        raise ValueError(f"{topology} has {len(found)} chips, expected {chips}.")
    return found[:chips]


@dataclasses.dataclass(frozen=True)
class Slice(Devices):
    """Devices of which there is only a description.

    Attributes:
      described: The devices, as many as ``count``.
    """

    described: tuple[jax.Device, ...] = ()

    def _chosen(self) -> list[jax.Device]:
        return list(self.described)


def compile_program(program: Program, devices: list[jax.Device]) -> dict[str, Any]:
    """Compiles a program; a row of what XLA says of it."""
    mesh = Mesh(np.array(devices), ("devices",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    divided = NamedSharding(mesh, PartitionSpec("devices"))
    placed = jax.tree.map(
        lambda x: divided if isinstance(x, Sharded) else everywhere,
        program.arguments,
        is_leaf=lambda x: isinstance(x, Sharded),
    )
    options = {"in_shardings": placed, "out_shardings": everywhere}
    start = time.perf_counter()
    lowered = program.jit(**options).lower(*program.arguments)
    middle = time.perf_counter()
    compiled = lowered.compile()
    end = time.perf_counter()
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    seconds = cost.get("optimal_seconds", -1)
    return {
        "program": program.name,
        "lowering": middle - start,
        "compiling": end - middle,
        "code": memory.generated_code_size_in_bytes or None,  # not told for CUDA
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "flops": cost.get("flops"),
        "bytes": cost.get("bytes accessed"),
        # Below 0 where the cost model does not know an operation.
        "seconds": seconds if seconds > 0 else None,
    }


def rows(devices: list[jax.Device]) -> Iterator[dict[str, Any]]:
    for name in _CONFIG.value:
        config = importlib.import_module(f"configs.{name}").get_config()
        if _ESTIMATOR.value:
            for penalty in ("ewc", "wpl"):
                config.penalty[penalty].estimator = _ESTIMATOR.value
        used = Slice(len(devices), described=tuple(devices))
        for program in programs.of_config(config, used):
            if not _ONLY.value or program.name in _ONLY.value:
                yield {"config": name, **compile_program(program, devices)}


def main(argv: list[str]) -> None:
    """Compiles what was asked for, and prints a row for each program."""
    del argv
    devices = describe_devices(_PLATFORM.value, _TOPOLOGY.value, _CHIPS.value)
    print(f"{len(devices)} x {devices[0].device_kind}, jax {jax.__version__}")
    print(
        f"{'program':44} {'compile s':>9} {'code MB':>8} {'args MB':>8} {'temp MB':>8} "
        f"{'GFLOP':>9} {'GB':>9} {'est. ms':>9}"
    )
    found = []
    for row in rows(devices):
        found.append(row)
        print(_line(row), flush=True)
        if _OUTPUT.value:
            text = json.dumps(found, indent=1) + "\n"
            output = Path(_OUTPUT.value)
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(text, encoding="utf-8")


def _line(row: dict[str, Any]) -> str:
    def scaled(name: str, unit: float, width: int) -> str:
        value = row[name]
        return f"{'-':>{width}}" if value is None else f"{value / unit:{width}.1f}"

    name = f"{row['config']}: {row['program']}"
    return " ".join(
        [
            f"{name:44}",
            scaled("compiling", 1, 9),
            *(scaled(each, 1e6, 8) for each in ("code", "arguments", "temporaries")),
            scaled("flops", 1e9, 9),
            scaled("bytes", 1e9, 9),
            scaled("seconds", 1e-3, 9),
        ]
    )


if __name__ == "__main__":
    app.run(main)
