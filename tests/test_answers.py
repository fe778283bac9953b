"""Answers work or are refused in one sentence, and every combination of options bakes a service that is clean."""

import html
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import pytest
from conftest import ROOT, Bake, Service, environment
from markdown_it import MarkdownIt

QUESTIONS = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
AUTH = QUESTIONS["auth"]
OPTIONS = [name for name, default in QUESTIONS.items() if isinstance(default, bool)]
TRACES = {
    "docker": r"(?i)docker|compose\.yaml|### A container",
    "kubernetes": r"(?i)kube|deploy/|cloudnative|cnpg|ingress.yaml",
    "github_actions": r"\.github|GitHub|ci\.yml|[Dd]ependabot",
    "users": r"(?i)argon2|zxcvbn|(app|tests)[./]auth\b|create_users|password.link|smtp|web_url|registration\b[=:]",
    "oidc": r"(?i)oidc|joserfc|openid|jwks|identity provider",
    "users or oidc": r"(?i)\bsigned.?in\b|bearer",
}


def cookiecutter(template: Path, folder: Path, *answers: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cookiecutter", template, "--no-input", *answers],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )


def texts(service: Path) -> Iterator[tuple[str, str]]:
    for path in service.rglob("*"):
        name = path.relative_to(service).as_posix()
        if path.is_file() and not name.startswith(".git/"):
            yield name, path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "answer",
    [
        "project_slug=my service",
        "project_slug=MyService",
        "project_slug=1service",
        "project_slug=my_service",
        "project_slug=my--service",
        "project_slug=-service",
        "project_slug=service-",
        "project_slug=caf\u00e9",
        'project_slug=my"service',
        "project_slug=" + "x" * 64,
        "project_slug=fastapi",
        "project_name=My\nService",
        "description=one\x07two",
        "author=one\ntwo",
        "author=it's\ttwo",
        "project_name=My\u202eService",
        "project_name=\u200b",
        "description=one\u2028two",
        "author=\ufeffme",
        "project_name=My\udcffService",  # a byte that is not UTF-8
        "description=\udcff",
        "author=\udcff",
        "project_slug=\udcff",
    ],
)
def test_a_bad_answer_is_refused_in_one_sentence(template: Path, tmp_path: Path, answer: str) -> None:
    done = cookiecutter(template, tmp_path, answer)
    assert done.returncode != 0
    assert re.match(rf"{answer.split('=')[0]} .*\n", done.stderr)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("slug", ["", "../x", "a/b", "."])
def test_a_slug_that_is_no_folder_of_its_own_bakes_nothing(template: Path, tmp_path: Path, slug: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    assert cookiecutter(template, inside, f"project_slug={slug}").returncode != 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_name_without_a_letter_has_a_slug_all_the_same(bake: Bake) -> None:
    assert bake(project_name="\U0001f680").name == "my-service"


@pytest.mark.parametrize("slug", ["a", "a1", "my-service", "a-1-b", "x" * 63])
def test_a_good_slug_names_the_folder_and_the_distribution(bake: Bake, slug: str) -> None:
    service = bake(project_slug=slug)
    assert service.name == slug
    assert tomllib.loads((service / "pyproject.toml").read_text())["project"]["name"] == slug


@pytest.mark.parametrize(
    "text",
    [
        'the "best" one',
        "it's",
        r"back\slash \n",
        "Caf\u00e9 \u00fcber \u4e2d\u6587",
        "Rocket \U0001f680",
        "*a* `b` <i>c</i> [d] &amp; ~~e~~ _f_ #",
        "# no heading",
        "- no list",
    ],
)
def test_texts_arrive_as_they_were_typed(service: Service, bake: Bake, text: str) -> None:
    baked = Service(bake(project_name=text, project_slug="texts", description=text, author=text), service.env)
    project = tomllib.loads((baked.path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["description"] == text
    assert project["authors"] == [{"name": text}]
    code = "from app.main import app; print(ascii([app.title, app.description]))"
    shown = baked.run("python", "-c", code, env={"DATABASE_URL": "postgresql://localhost/x"}).stdout
    assert shown.strip() == ascii([text, text])
    opening = MarkdownIt().parse((baked.path / "README.md").read_text(encoding="utf-8"))[:6]
    assert [token.tag for token in opening] == ["h1", "", "h1", "p", "", "p"]
    for paragraph in (opening[1], opening[4]):
        assert "".join(token.content for token in paragraph.children or []) == text
        assert all(token.type in ("text", "text_special") for token in paragraph.children or [])


def test_a_service_says_which_template_made_it(bake: Bake) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert tomllib.loads((bake() / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["app"]["template"] == version
    released = re.findall(r"^## (\d+\.\d+\.\d+) - ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert version.endswith(".dev0") or version == released[0]


def test_a_name_of_markup_is_text_in_the_documentation(service: Service, bake: Bake) -> None:
    name = "</title><script>alert(1)</script> &amp; co"
    baked = Service(bake(project_name=name, project_slug="markup"), service.env)
    with baked.serve({"DATABASE_URL": "postgresql://127.0.0.1:1/none"}) as client:
        for path in ("/docs", "/redoc"):
            page = client.get(path).text
            [title] = re.findall("<title>(.*?)</title>", page)
            assert html.unescape(title).startswith(f"{name} - ")
            assert "<script>alert" not in page
        assert client.get("/openapi.json").json()["info"]["title"] == name


@pytest.mark.parametrize("wanted", list(product([True, False], repeat=len(OPTIONS))), ids=str)
@pytest.mark.parametrize("auth", AUTH)
def test_every_combination_is_clean_at_birth(
    bake: Bake, virtual_environments: Callable[[str], Path], auth: str, wanted: tuple[bool, ...]
) -> None:
    options = dict(zip(OPTIONS, wanted, strict=True))
    env = environment() | {"UV_PROJECT_ENVIRONMENT": str(virtual_environments(auth))}
    baked = Service(bake(project_slug="combination", auth=auth, **options), env)
    found = dict(texts(baked.path))
    chosen = options | {answer: answer == auth for answer in AUTH} | {"users or oidc": auth != "none"}
    for name, text in found.items():
        if not name.endswith((".yml", ".mako")):
            assert not re.search(r"\{[{%#]", text), name
        assert "cookiecutter" not in text.split("\n## Update\n")[0], name
        for option, trace in TRACES.items():
            assert chosen[option] or not re.search(trace, name + text), f"{option} leaves a trace in {name}"

    subprocess.run(["uv", "lock", "--check", "--offline"], cwd=baked.path, env=env, check=True)
    if all(wanted) or (auth == "none" and not any(wanted)):
        baked.run("ruff", "check")
        baked.run("ruff", "format", "--check")
        baked.run("mypy")
        assert re.search(r"\d+ passed in", baked.run("pytest").stdout)
    else:  # no option is seen by what was judged with all of them, and with none
        assert judged(found, "combination") == judged(dict(texts(bake(auth=auth))), "my-service")


def judged(found: dict[str, str], slug: str) -> dict[str, str]:
    """Return what the checks read, without the service's name and the id of its first revision."""
    own = re.compile(rf"{slug}|{slug.replace('-', '_')}|(?<![0-9a-f])[0-9a-f]{{12}}(?![0-9a-f])")
    files = {name: text for name, text in found.items() if name.endswith((".py", ".mako", ".toml", ".lock"))}
    return {own.sub("OWN", name): own.sub("OWN", text) for name, text in files.items()}


def test_a_declined_option_removes_all_that_it_brings(bake: Bake) -> None:
    with_all, with_none = (
        {name for name, _ in texts(bake(project_slug=slug, **dict.fromkeys(OPTIONS, wanted)))}
        for slug, wanted in [("all", True), ("none", False)]
    )
    with_all, with_none = (
        {re.sub("_[0-9a-f]{12}_", "_ID_", name) for name in names} for names in (with_all, with_none)
    )
    brought = {name.split("/")[0] for name in with_all - with_none}
    assert brought == {".dockerignore", ".github", "Dockerfile", "compose.yaml", "deploy"}
    assert not {name for name in with_none if name.split("/")[0] in brought}
    assert with_none <= with_all


def test_an_answer_to_auth_brings_its_files_and_no_other(bake: Bake) -> None:
    none, users, oidc = (
        {re.sub("_[0-9a-f]{12}_", "_ID_", name) for name, _ in texts(bake(project_slug=auth, auth=auth))}
        for auth in AUTH
    )
    assert {name.rpartition("/")[0] for name in users - none} == {"app/auth", "tests/auth", "migrations/versions"}
    assert none <= users
    assert none <= oidc


def test_each_service_s_users_have_a_revision_of_its_own(bake: Bake) -> None:
    revisions = []
    for slug in ("one", "another"):
        texts_of = dict(texts(bake(project_slug=slug, auth="users")))
        items, users = (text for name, text in sorted(texts_of.items()) if re.search("create_(items|users)", name))
        first, second = (re.findall('^revision: str = "(.*)"', text, re.MULTILINE) for text in (items, users))
        assert f'None = "{first[0]}"' in users
        revisions += [*first, *second]
    assert len({*revisions}) == 4


def test_baking_over_a_service_keeps_the_files_that_are_not_the_template_s(bake: Bake, template: Path) -> None:
    service = bake()
    own = [
        service / "app/orders/models.py",
        service / "app/items/extra.py",
        service / "migrations/versions/mine.py",
        service / ".github/workflows/deploy.yml",
    ]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
    history = sorted((service / "migrations/versions").iterdir())
    done = cookiecutter(template, service.parent, "--overwrite-if-exists", "github_actions=false")
    assert done.returncode == 0, done.stderr
    assert all(path.exists() for path in own)
    assert sorted((service / "migrations/versions").iterdir()) == history


def test_baking_over_a_service_keeps_a_domain_of_the_name_of_a_declined_one(bake: Bake, template: Path) -> None:
    service = bake()
    own = [service / "app/auth/models.py", service / "app/auth/more.py", service / "tests/auth/test_router.py"]
    for path in own:
        path.parent.mkdir(exist_ok=True)
        path.write_text("# mine\n")
    assert cookiecutter(template, service.parent, "--overwrite-if-exists").returncode == 0
    names = {path for folder in ("app/auth", "tests/auth") for path in (service / folder).iterdir()}
    assert names == {*own}
    assert all(path.read_text() == "# mine\n" for path in own)
    assert not (service / ".kept").exists()


def test_baking_over_a_service_takes_a_declined_answer_away(bake: Bake, template: Path) -> None:
    service = bake(auth="users")
    before = dict(texts(service))
    assert cookiecutter(template, service.parent, "--overwrite-if-exists", "auth=users").returncode == 0
    assert dict(texts(service)) == before
    assert cookiecutter(template, service.parent, "--overwrite-if-exists", "auth=none").returncode == 0
    assert not (service / "app/auth").exists()
    assert not (service / "tests/auth").exists()


def test_a_repository_is_started_unless_there_is_one(bake: Bake) -> None:
    outer = bake()
    assert (outer / ".git").is_dir()
    assert subprocess.run(["git", "log"], cwd=outer, capture_output=True, check=False).returncode != 0, "no commit"
    (outer.parent / ".git").mkdir()
    assert not (bake(project_slug="inner") / ".git").exists()


def test_the_bake_ends_with_what_is_next(template: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my services"
    folder.mkdir()
    done = cookiecutter(template, folder)
    enter, run, save = done.stdout.splitlines()
    assert shlex.split(enter) == ["cd", str(folder / "my-service")]
    assert run.startswith("uv run alembic upgrade head && uv run fastapi dev")
    subprocess.run(
        save.replace("git commit", "git -c user.name=me -c user.email=me@example.com commit"),
        cwd=folder / "my-service",
        shell=True,
        check=True,
    )


@pytest.mark.parametrize("auth", ["the template's own", *AUTH])
def test_a_lock_has_sizes_and_public_addresses(bake: Bake, auth: str) -> None:
    """Without sizes, the first `uv add` of a user writes each line of a file anew."""
    packages = tomllib.loads(((bake(auth=auth) if auth in AUTH else ROOT) / "uv.lock").read_text(encoding="utf-8"))[
        "package"
    ]
    files = [file for package in packages for file in [package.get("sdist"), *package.get("wheels", [])] if file]
    assert files
    assert all(file["size"] and file["url"].startswith("https://files.pythonhosted.org/") for file in files)
    assert {package["source"].get("registry", "https://pypi.org/simple") for package in packages} == {
        "https://pypi.org/simple"
    }


def test_baking_is_deterministic(bake: Bake) -> None:
    service = bake()
    first = dict(texts(service))
    shutil.rmtree(service)
    assert dict(texts(bake())) == first
