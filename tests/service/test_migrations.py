"""A migration runs once, alone, and never in the way of others for long; what goes wrong is said in one line."""

from urllib.parse import urlsplit

from tests.service.conftest import CONCURRENTLY, LOCKS, TABLE, TIME_LIMIT, Project, only_line


async def test_any_number_of_upgrades_at_once_migrate_once(project: Project) -> None:
    project.revision(TABLE)
    project.revision(CONCURRENTLY)
    project.revision("op.execute('INSERT INTO things VALUES (1)')")
    processes = [project.start("upgrade", "head") for _ in range(8)]
    logs = [process.communicate(timeout=TIME_LIMIT)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, "".join(logs)
    assert "".join(logs).count("Running upgrade") == 3
    assert await project.sql("SELECT id FROM things") == [1]
    assert await project.sql(LOCKS) == []


def test_every_error_that_a_user_can_mend_is_one_line(project: Project) -> None:
    parts = urlsplit(project.url)

    def url(
        login: str = f"{parts.username}:{parts.password}", host: str = "", path: str = parts.path, query: str = ""
    ) -> str:
        netloc = f"{login}@{host or parts.netloc.rpartition('@')[2]}"
        return parts._replace(netloc=netloc, path=path, query=query).geturl()

    project.revision('op.execute("SELECT 1/0")')
    refusals = {
        url(login=f"{parts.username}:hunter2"): "password authentication failed",
        url(path="/missing"): 'database "missing" does not exist',
        url(host="127.0.0.1:1"): "Connect call failed",
        url(host="database.invalid"): "cannot connect to the database at database.invalid:",
        url(query="target_session_attrs=standby"): "None of the hosts match the target attribute",
        url(host="host:port"): "a port must be a number",
        url(query="options=-cdefault_transaction_read_only%3Don"): "in a read-only transaction",
        url(): "r0.py:9: division by zero",
    }
    no_url = project.refusal("current", env={"DATABASE_URL": "", "ENVIRONMENT": "production"})
    assert "MIGRATION_DATABASE_URL, DATABASE_URL and DATABASE_URL_PROD are not set" in no_url
    processes = {env: project.start("upgrade", "head", env={"DATABASE_URL": env}) for env in refusals}
    for env, reason in refusals.items():
        refusal = only_line(processes[env])
        assert reason in refusal
        assert "hunter2" not in refusal
        assert str(parts.password) not in refusal
    with project.start("--raiseerr", "upgrade", "head") as process:
        assert "Traceback" in process.communicate()[1]


def test_no_error_commands_the_terminal(project: Project) -> None:
    project.revision(r"""op.execute("DO 'BEGIN RAISE ''\x1b[2J''; END'")""")
    assert r"r0.py:9: \x1b[2J" in project.refusal("upgrade", "head")


def test_a_database_ahead_of_the_code_is_explained(project: Project) -> None:
    project.revision(TABLE)
    newer = project.revision("pass")
    project.alembic("upgrade", "head")
    newer.unlink()
    for arguments in (["upgrade", "head"], ["current"], ["check"], ["downgrade", "-1"]):
        assert "the database is at revision r1, which is not among the revisions here" in project.refusal(*arguments)
    project.alembic("stamp", "--purge", "r0")
    assert "r0 (head)" in project.alembic("current")


def test_two_heads_are_named_with_the_command_that_joins_them(project: Project) -> None:
    project.revision(TABLE)
    other = project.revision("pass")
    other.write_text(other.read_text().replace("down_revision = 'r0'", "down_revision = None"))
    assert "r0 and r1 are heads: join them by `alembic merge heads -m ...`" in project.refusal("upgrade", "head")
