"""Makes the README's pictures, in `docs/`, of a real run on a machine like a new one: `uv run python tests/record.py`."""

import html
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
from conftest import ROOT, copy_template, environment, wait_for
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

DOCS = ROOT / "docs"
URL = "http://127.0.0.1:8000"
# What pip and uv say of their work, which is another at each run.
INSTALLING = re.compile(
    r"[ .]*(Looking|WARNING|Collecting|Using|Downloading|Downloaded|Installing|Successfully|Requirement|Defaulting|Creating"
    r"|Building|Built|Prepared|Installed|warning:|━|\[|$)"
)


def commands(readme: Path) -> list[str]:
    """Return the commands of a README's blocks, a block each."""
    return re.findall(r"```sh\n(.*?)\n```", readme.read_text(encoding="utf-8"), re.DOTALL)


def new_machine(folder: Path, *, refuses: bool) -> dict[str, str]:
    """Return the environment of a machine that has Python with pip, and git; its pip `refuses` as Debian's does."""
    library = Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix}))
    copy = folder / "lib" / library.name
    (folder / "bin").mkdir(parents=True)
    shutil.copy2(Path(sys.executable).resolve(), folder / "bin/python3")
    (copy / "site-packages").mkdir(parents=True)
    for path in library.iterdir():
        if path.name not in ("site-packages", "EXTERNALLY-MANAGED"):
            (copy / path.name).symlink_to(path)
    env = environment() | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", folder / "bin/python3", "pip"], check=True)
    if refuses:
        (copy / "EXTERNALLY-MANAGED").write_text("[externally-managed]\nError=ask the distribution\n")
    return env


@contextmanager
def running(command: str, folder: Path, env: Mapping[str, str], log: Path) -> Iterator[httpx2.Client]:
    """Run a README's command that brings a service up; yield a client of it, once it is ready."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as shell,
    ):
        try:
            with httpx2.Client(base_url=URL) as client:
                wait_for(client, "/health/ready", shell)
                yield client
        finally:
            os.killpg(shell.pid, signal.SIGTERM)


def session(readme: Path, service: Path, env: Mapping[str, str], log: Path) -> Text:
    """Return what a terminal shows of the command that is `running`, and of those that are next, which this runs."""
    up, next_ = (block for block in commands(readme) if "fastapi dev" in block or block.startswith("curl"))
    shown = Text(f"$ {up}\n", "bold")
    printed, _, _ = log.read_text(encoding="utf-8").partition("\n  Logs:")
    lines = [Text.from_ansi(line) for line in printed.replace(f"{service.parent}/", "~/").splitlines()]
    for command in ("", *next_.splitlines()):
        if command:
            shown.append(f"\n$ {command}\n", "bold")
            done = subprocess.run(["bash", "-c", command], cwd=service, env=env, check=True, capture_output=True)
            lines = [Text.from_ansi(line) for line in (done.stderr + done.stdout).decode().splitlines()]
        for line in lines:
            if not INSTALLING.match(line.plain):
                shown.append(line).append("\n")
        if not command:
            shown.append("\n# in a second terminal", "italic")
    return shown


def draw(shown: Text) -> str:
    console = Console(record=True, width=104, file=io.StringIO())
    console.print(shown, end="")
    svg = console.export_svg(title="from a checkout to an answer")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # nothing from another host


def drawn(svg: str) -> str:
    """Return the text that `draw` has drawn, without its spaces."""
    return html.unescape("".join(re.findall(r"<text [^>]*-line-\d+\)\">(.*?)</text>", svg)))


def substance(text: str) -> str:
    """Return `text` without what differs at each run: numbers, ids, moments; and without its spaces."""
    return re.sub(r"[0-9a-f]*\d[0-9a-f.:-]*", "#", re.sub(r"\s", "", text))


def photograph() -> None:
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=shutil.which("chromium")) as browser,
    ):
        page = browser.new_page(base_url=URL, viewport={"width": 1000, "height": 640})
        page.goto("/docs")
        page.locator(".opblock").first.wait_for()
        page.screenshot(path=DOCS / "docs.png")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        machine, checkout = Path(folder, "machine"), Path(folder, "checkout")
        env = new_machine(machine, refuses=False) | {"FORCE_COLOR": "1"}
        copy_template(checkout)
        service, log = Path(folder, "my-service"), Path(folder, "log")
        [up] = (block for block in commands(checkout / "README.md") if "fastapi dev" in block)
        with running(up, checkout, env, log):
            svg = draw(session(checkout / "README.md", service, env, log))
            photograph()
        subprocess.run(
            ["python3", "-m", "uv", "run", "python", "-m", "devdb", "stop"], cwd=service, env=env, check=True
        )
    (DOCS / "session.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
