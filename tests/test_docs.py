"""What the guides say can be done is done, as far as one machine can."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.processes import free_port, processes
from helpers.tiny import call, environment
from helpers.tiny_search import RUNS

from configs import enas_rnn_pydoc, methods_nb201_small, study_nb201
from wpl_jax.devices import parallel
from wpl_jax.jobs.search_config import make_search

ROOT = Path(__file__).resolve().parents[1]
RUNNING = (ROOT / "docs" / "running.md").read_text(encoding="utf-8")
SCALING = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(text):
    """Those of its blocks, a line each."""
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if "launch.py" in line]


def section(title):
    return RUNNING.partition(f"## {title}\n")[2].partition("\n## ")[0]


def tiny(command, workdir):
    """The command, of a search that takes no time, and the variables before it."""
    words = shlex.split(command)
    start = words.index("python")
    config = ROOT / "tests" / "helpers" / "tiny_search.py"
    changed = {"--config": config, "--workdir": workdir}
    for i, word in enumerate(words):
        name = word.partition("=")[0]
        if name in changed:
            words[i] = f"{name}={changed[name]}"
    variables = dict(word.split("=", 1) for word in words[:start])
    flags = variables.pop("XLA_FLAGS", "")
    flags += " --xla_backend_optimization_level=0"
    env = environment(XLA_FLAGS=flags, **variables)
    return [sys.executable, *words[start + 1 :]], env


def assert_finished(workdir):
    assert (workdir / "report.html").exists()
    for run in RUNS:
        assert (workdir / "searches" / run / "retrain" / "retrained.json").exists()


def test_the_guide_has_the_commands_that_are_tried():
    assert len(commands(section("One machine"))) == 2
    assert len(commands(section("Several processes").partition("### ")[0])) == 2


@pytest.mark.slow
def test_commands_for_one_machine(tmp_path):
    plain, forced = commands(section("One machine"))
    command, env = tiny(plain, tmp_path / "plain")
    done = call(command, env, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Devices: 1 (cpu)" in done.stdout
    assert_finished(tmp_path / "plain")
    # Flags are in the text, and work together.
    asked = {"--cache", "--profile", "--devices"}
    flags = re.findall(r"`(--\w+=\w+)`", section("One machine"))
    flags = [flag for flag in flags if flag.partition("=")[0] in asked]
    assert {flag.partition("=")[0] for flag in flags} == asked
    cache = tmp_path / "cache"
    flags = [flag.replace("DIR", str(cache)) for flag in flags]
    command, env = tiny(forced, tmp_path / "forced")
    done = call([*command, *flags], env, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Devices: 2 of 4 (cpu)" in done.stdout
    assert_finished(tmp_path / "forced")
    assert any(cache.iterdir())
    folder = tmp_path / "forced" / "searches" / RUNS[0]
    assert len(list((folder / "profile").rglob("*.xplane.pb"))) == 1
    assert "A trace is in" in done.stdout


@pytest.mark.slow
def test_commands_for_several_processes(tmp_path):
    where = section("Several processes").partition("### ")[0]
    address = f"localhost:{free_port()}"
    made = [
        tiny(line.replace("HOST:1234", address), tmp_path / "run")
        for line in commands(where)
    ]
    with processes([command for command, _ in made], made[0][1]) as started:
        _, err = started[0].communicate(timeout=300)
        started[1].communicate(timeout=60)
    assert [one.returncode for one in started] == [0, 0], err
    assert_finished(tmp_path / "run")


def test_flags_of_the_guides_are_flags():
    command = [sys.executable, str(ROOT / "launch.py"), "--helpfull"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    for line in [line for page in PAGES for line in commands(page.read_text("utf-8"))]:
        for flag in re.findall(r" --([a-z]+)[= ]", line.partition("launch.py")[2]):
            assert re.search(rf"--(\[no\])?{flag}\b", said), flag


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_and_configurations_are_there(page):
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (page.parent / link).is_file(), link
    # That of the guide to spaces is the reader's own.
    for config in set(re.findall(r"configs/(\w+)\.py", text)) - {"ladder_digits"}:
        assert (ROOT / "configs" / f"{config}.py").is_file(), config
    for config in re.findall(r"wpl-jax --config=(\w+)(?![\w.])", text):
        assert (ROOT / "configs" / f"{config}.py").is_file(), config


def test_the_readme_names_every_guide():
    readme = (ROOT / "README.md").read_text("utf-8")
    for guide in set(PAGES[1:]) - {ROOT / "docs" / "index.md"}:
        assert f"docs/{guide.name}" in readme, guide.name


def test_the_arms_and_configurations_of_the_systems_are_there():
    text = (ROOT / "docs" / "systems.md").read_text("utf-8")
    strategies, methods, papers = text.split("\n## ")[1:]
    for part, config in ((strategies, methods_nb201_small), (methods, study_nb201)):
        rows = re.findall(r"^\|.*\| (`\w+`(?:, `\w+`)*) \|", part, re.MULTILINE)
        arms = {arm for row in rows for arm in re.findall(r"`(\w+)`", row)}
        assert len(arms) >= 12
        assert arms <= set(config.get_config().arms)
    configs = re.findall(r"^\| [^|]+ \| `(\w+)` \|", papers, re.MULTILINE)
    assert len(configs) == 7
    for config in configs:
        assert (ROOT / "configs" / f"{config}.py").is_file(), config


def test_a_search_takes_the_settings_of_the_plan_for_a_box():
    (block,) = re.findall(r"```\n(--config.*?)```", SCALING, re.DOTALL)
    config = enas_rnn_pydoc.get_config()
    settings = dict(flag.removeprefix("--config.").split("=") for flag in block.split())
    assert len(settings) == 5
    config.update_from_flattened_dict(
        {name: int(value) for name, value in settings.items()}
    )
    config.task.language_model.batch_size = 16
    search, _, _ = make_search(config, num_devices=None)
    assert search.devices == parallel.Devices(8, "children")
