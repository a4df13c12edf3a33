"""The report of searches: how much was forgotten, under which penalty."""


def write(workdir, config, runs):
    (workdir / "report.html").write_text("todo")
