"""Finds what a migration would do to a service in use: squawk judges the migration's SQL, and so do rules of our own."""

import io
import json
import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationStep
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError

from migrations.lint.rules import RULES

ROOT = Path(__file__).resolve().parent.parent.parent
POSTGRESQL = "15"  # the oldest release that the service must run on
EXCLUDED = (
    *("ban-char-field", "prefer-bigint-over-int", "prefer-bigint-over-smallint", "prefer-identity"),  # style
    *("prefer-text-field", "prefer-timestamp-tz", "require-enum-value-ordering"),  # style
    "prefer-robust-stmts",  # a revision that fails is rolled back
    "ban-drop-type",  # PostgreSQL refuses it while a column has the type
    *("require-lock-timeout", "require-statement-timeout"),  # env.py limits what a migration may wait
    "constraint-missing-not-valid",  # repeats other rules; "adding-check-constraint" and its neighbours do the rest
    *("ban-drop-constraint", "ban-drop-not-null"),  # instant, and the last step of most safe forms
)
CODE_FIRST = "Keep the old form until no running code needs it, then allow the rule; see migrations/README.md."
ALLOWANCE = re.compile(r"^[ \t]*# squawk-ignore\b(?: +([\w-]+): *(\S))?.*", re.MULTILINE)
GAP = r"(?:--[^\n]*|/\*.*?\*/|\s)"
TOKEN = re.compile(rf"""('[^']*'|"[^"]*")|(\$\w*\$).*?\2|(;)?{GAP}+""", re.DOTALL)
TRANSACTION = re.compile(r"^(?=BEGIN;|COMMIT;)", re.MULTILINE)
NEW_TABLE = re.compile(
    r"^CREATE (?:(?:UNLOGGED )?TABLE|MATERIALIZED VIEW) (?!IF NOT EXISTS )([^\s(]+)", re.MULTILINE | re.IGNORECASE
)
TABLE = re.compile(
    r"(?:^(?:ALTER TABLE(?!.* ATTACH )|UPDATE|DELETE FROM|MERGE INTO|TRUNCATE|LOCK)(?: TABLE| IF EXISTS| ONLY)*"
    r"| ATTACH PARTITION|^CREATE (?:UNIQUE )?INDEX \S+ ON) ([^\s(;,]+)",
    re.IGNORECASE,
)


class LintError(ValueError):
    """The migrations cannot be judged; the message is one sentence."""


class Finding(NamedTuple):
    rule: str
    statement: str
    reason: str
    safe_form: str


def select(scripts: ScriptDirectory, wanted: str) -> list[Script]:
    """Return the revisions after FROM up to TO, oldest first; `wanted` is "FROM:TO", and either may be missing.

    Raise LintError if there is no such revision or range.
    """
    start, _, end = wanted.partition(":")
    try:
        # Not a range of alembic's, which leaves out what a merge brings in from another branch.
        before = set(scripts.iterate_revisions(start, "base")) if start else set()
        if start and end:
            list(scripts.iterate_revisions(end, start))  # raises if it is no range
        return [script for script in scripts.iterate_revisions(end or "heads", "base") if script not in before][::-1]
    except RevisionError as error:
        raise LintError(str(error)) from error


def lint(config: Config, scripts: ScriptDirectory, script: Script) -> list[Finding]:
    """Return what is unsafe in the revision `script` and not allowed there, and the allowances that allow nothing.

    Raise LintError if an allowance has no reason or names no rule.
    """
    allowed = allowances(script)
    findings = list(judge(config, scripts, script))
    rules = {finding.rule for finding in findings}
    unused = set() if "not-renderable" in rules else allowed - rules
    for rule in unused - {"not-renderable", *(rule.name for rule in RULES)}:
        try:
            squawk("", f"--include={rule}")
        except LintError:
            raise LintError(f"{script.path} allows {rule}, which is no rule") from None
    return [finding for finding in findings if finding.rule not in allowed] + [
        Finding("unused-allowance", f"# squawk-ignore {rule}", "It allows nothing here.", "Remove it.")
        for rule in sorted(unused)
    ]


def allowances(script: Script) -> set[str]:
    matches = list(ALLOWANCE.finditer(Path(script.path).read_text(encoding="utf-8")))
    for match in matches:
        if not match[2]:
            raise LintError(f"{script.path}: `{match[0].strip()}` must be `# squawk-ignore RULE: REASON`")
    return {match[1] for match in matches}


def judge(config: Config, scripts: ScriptDirectory, script: Script) -> Iterator[Finding]:
    try:
        sql = one_line_each(render(config, scripts, script))
    except Exception as error:  # noqa: BLE001 - a revision is a program, which without a database may raise anything
        text = f"{type(error).__name__}: {error}"
        yield Finding("not-renderable", text, "Its SQL cannot be known without a database.", "Use `op.execute`.")
        return
    new_tables = set(NEW_TABLE.findall(sql))
    for finding in (*squawk(sql), *apply_rules(sql)):
        table = TABLE.search(finding.statement)
        if not table or table[1] not in new_tables:
            yield finding


def render(config: Config, scripts: ScriptDirectory, script: Script) -> str:
    steps = [MigrationStep.upgrade_from_script(scripts.revision_map, script)]
    before: Any = script.down_revision or "base"  # alembic takes the tuple of a merge, and declares a str
    config.output_buffer = buffer = io.StringIO()
    with EnvironmentContext(config, scripts, fn=lambda *_: steps, as_sql=True, starting_rev=before):
        scripts.run_env()
    return buffer.getvalue()


def one_line_each(sql: str) -> str:
    """Give each statement a line of its own; drop comments, which could silence squawk, and the bodies of functions."""

    def replace(match: re.Match[str]) -> str:
        literal, body, end = match.groups()
        return literal.replace("\n", " ") if literal else "''" if body else ";\n" if end else " "

    return TOKEN.sub(replace, sql).lstrip()


def squawk(sql: str, *options: str) -> list[Finding]:
    settings = [f"--config={os.devnull}", f"--pg-version={POSTGRESQL}", f"--exclude={','.join(EXCLUDED)}", *options]
    program = shutil.which("squawk", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]))
    command = [program or "squawk", "--reporter=json", *settings]
    try:
        process = subprocess.run(command, check=False, input=sql, capture_output=True, encoding="utf-8")
    except FileNotFoundError:
        raise LintError("squawk is not installed: `uv sync` does it") from None
    if process.returncode > 1:
        raise LintError(process.stderr.strip())
    lines = sql.splitlines()
    return [
        Finding(found["rule_name"], lines[found["line"]], found["message"], found["help"] or CODE_FIRST)
        for found in json.loads(process.stdout)
    ]


def apply_rules(sql: str) -> Iterator[Finding]:
    flags = re.IGNORECASE | re.MULTILINE
    for transaction in TRANSACTION.split(sql):
        for rule in RULES:
            if re.search(rule.beside, transaction, flags):
                for match in re.finditer(rule.pattern, transaction, flags):
                    statement = transaction.splitlines()[transaction.count("\n", 0, match.end())]
                    yield Finding(rule.name, statement, rule.reason, rule.safe_form)
