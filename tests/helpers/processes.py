"""Several processes of a test."""

import contextlib
import socket
import subprocess
from pathlib import Path

from helpers.tiny import QUICK_TO_COMPILE

ROOT = Path(__file__).resolve().parents[2]


def free_port():
    with contextlib.closing(socket.socket()) as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def processes(commands, env):
    """Starts them; what is left of them is killed in the end."""
    started = [
        subprocess.Popen(
            command,
            env=env,
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for command in commands
    ]
    try:
        yield started
    finally:
        for one in started:
            one.kill()
            one.communicate()


def devices_of_each(count):
    return f"{QUICK_TO_COMPILE} --xla_force_host_platform_device_count={count}"
