"""Prints the figures of a freshly baked service: its size, and how long a user waits for it.

Run it by `uv run python benchmarks/figures.py`; the uv cache is warm from the second run on.
"""

import re
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

TEMPLATE = Path(__file__).resolve().parent.parent
PORT = 8765


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def run(command: str, folder: Path) -> str:
    return subprocess.run(command.split(), cwd=folder, check=True, capture_output=True, text=True).stdout


def wait() -> None:
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health/ready", timeout=10)
            return
        except URLError:
            time.sleep(0.02)


def lines(files: list[Path]) -> int:
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        bake = ["cookiecutter", "--no-input", "--output-dir", folder, str(TEMPLATE)]
        baked = seconds(lambda: subprocess.run(bake, check=True))
        service = Path(folder) / "my-service"
        files = [file for file in service.rglob("*") if file.is_file() and ".git" not in file.parts]

        migrated = seconds(lambda: run("uv run alembic upgrade head", service))
        with subprocess.Popen(["uv", "run", "fastapi", "dev", "--port", str(PORT)], cwd=service) as server:
            wait()
            answered = time.perf_counter() - start
            server.terminate()

        run("uv run alembic current", service)
        current = min(seconds(lambda: run("uv run alembic current", service)) for _ in range(5))
        run("uv run python -m devdb stop", service)
        run("uv sync --no-dev", service)
        packages = len(list(service.glob(".venv/**/*.dist-info")))

        python = [file for file in files if file.suffix == ".py"]
        code = [file for file in python if "tests" not in file.relative_to(service).parts]
        code_lines, python_lines = lines(code), lines(python)
        jinja = [
            file
            for file in [*TEMPLATE.glob("hooks/*.py"), *TEMPLATE.glob("*cookiecutter*/**/*")]
            if file.is_file()
            and not {".venv", ".github", "migrations"} & set(file.parts)
            and re.search(r"\{\{.*cookiecutter", file.read_text(encoding="utf-8", errors="replace"))
        ]

    for figure, name in [
        (f"{baked:.2f} s", "to bake"),
        (f"{migrated:.2f} s", "of the first `alembic upgrade head`, with `uv sync` and a new database"),
        (f"{answered:.2f} s", "from nothing to the first answered request"),
        (f"{current:.2f} s", "for `uv run alembic current`, best of 5"),
        (code_lines, f"lines of Python in {len(code)} files, without tests"),
        (python_lines - code_lines, "lines of tests"),
        (len(files), "files"),
        (len(jinja), "files with Jinja, hooks included"),
        (packages, "runtime packages"),
    ]:
        print(f"{figure:>8}  {name}")


if __name__ == "__main__":
    main()
