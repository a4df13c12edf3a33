"""Commands of ``launch.py`` that share the seconds of its imports.

As a program it reads lists of arguments, and forks for each after the imports.
"""

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

from helpers.tiny import ROOT, call, environment


class Ended(NamedTuple):
    """A process that has ended."""

    returncode: int
    stdout: str
    stderr: str


def launch_each(commands: Mapping[str, Sequence[str]], seconds: int) -> dict:
    """Runs commands one after the other.

    Args:
      commands: Arguments of ``launch.py``, by any names.
      seconds: After which the last must have ended.

    Returns:
      How each :class:`Ended`, by the names.
    """
    program = [sys.executable, __file__]
    env = environment(PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    given = json.dumps(list(commands.values()))
    process = call(program, env, input=given, timeout=seconds)
    assert process.returncode == 0, process.stderr
    found = json.loads(process.stdout)
    return {name: Ended(*one) for name, one in zip(commands, found, strict=True)}


def _fork(arguments: Sequence[str]) -> Ended:
    from wpl_jax.jobs import launch

    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as said:
        if not (pid := os.fork()):
            os.dup2(out.fileno(), 1)
            os.dup2(said.fileno(), 2)
            sys.argv = ["launch.py", *arguments]
            _exit_as(launch.main)
        _, status = os.waitpid(pid, 0)
        texts = []
        for file in (out, said):
            file.seek(0)
            texts.append(file.read())
        return Ended(os.waitstatus_to_exitcode(status), *texts)


def _exit_as(main: Callable[[], None]) -> NoReturn:
    """Ends the process as the interpreter ends a program."""
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    json.dump([_fork(arguments) for arguments in json.load(sys.stdin)], sys.stdout)
