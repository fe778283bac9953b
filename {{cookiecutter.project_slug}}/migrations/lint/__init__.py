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

from migrations.callers import version_table
from migrations.lint.deployed import deployed
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
ALLOWANCE = re.compile(r"^[ \t]*# squawk-ignore\b(?: +([\w-]+(?:, *[\w-]+)*): *(\S))?.*", re.MULTILINE)
GAP = r"(?:--[^\n]*|/\*.*?\*/|\s)"
TOKEN = re.compile(rf"""('[^']*'|"[^"]*")|(\$\w*\$).*?\2|(;)?{GAP}+""", re.DOTALL)
TRANSACTION = re.compile(r"^(?=BEGIN;|COMMIT;)", re.MULTILINE)
# What a statement makes: a table, or another thing that has a name; a column, or a value of an enum.
MADE = re.compile(
    r"^CREATE (?:OR REPLACE |UNLOGGED |MATERIALIZED )*(?:TABLE|VIEW|TYPE|SEQUENCE|SCHEMA|DOMAIN) (?!IF NOT EXISTS )([^\s(;]+)"
    r"|^ALTER T(?:ABLE|YPE) (?:IF EXISTS |ONLY )*(\S+) ADD (?:COLUMN |VALUE )(?!IF NOT EXISTS )('[^']*'|[^\s;]+)",
    re.IGNORECASE,
)
# What it is about: a table or another thing, a part of it, and the new name.
SUBJECT = re.compile(
    r"^(?:(?:ALTER|DROP) (?:MATERIALIZED )?(?:TABLE|VIEW|TYPE|SEQUENCE|SCHEMA|DOMAIN)(?!.* ATTACH )"
    r"|UPDATE|DELETE FROM|MERGE INTO|TRUNCATE|LOCK|CREATE (?:UNIQUE )?INDEX \S+ ON|ALTER TABLE .* ATTACH PARTITION)"
    r"(?: TABLE| IF EXISTS| ONLY)* ([^\s(;,]+)"
    r"(?: (?:RENAME|DROP)(?: COLUMN| VALUE| IF EXISTS)*(?! CONSTRAINT| TO) ('[^']*'|[^\s;,]+))?(?: (?:RENAME )?TO ('[^']*'|[^\s;]+))?",
    re.IGNORECASE,
)
UNKNOWN_TO_CLIENTS = re.compile(r"^ALTER (?:INDEX|TRIGGER|POLICY|RULE|STATISTICS) ", re.IGNORECASE)
NAMING = ("renaming-", "ban-drop-")  # rules about what clients may still use
Made = set[tuple[str, ...]]


class LintError(ValueError):
    """The migrations cannot be judged; the message is one sentence."""


class Finding(NamedTuple):
    rule: str
    statement: str
    reason: str
    safe_form: str


def select(config: Config, scripts: ScriptDirectory, wanted: str) -> list[Script]:
    """Return the revisions after FROM up to TO, oldest first; `wanted` is "FROM:TO", and either may be missing.

    Raise LintError if there is no such revision or range.
    """
    start, _, end = wanted.partition(":")
    try:
        before = deployed(config, scripts, start, ROOT)
        after = list(scripts.iterate_revisions(end or "heads", "base"))
    except RevisionError as error:
        raise LintError(str(error)) from error
    if end and start and before and before.isdisjoint(after):
        raise LintError(f"revision {end} does not come after {start}")
    return [script for script in after if script not in before][::-1]


def lint(config: Config, scripts: ScriptDirectory, script: Script, made: Made | None = None) -> list[Finding]:
    """Return what is unsafe in the revision `script` and not allowed there, and the allowances that allow nothing.

    `made` is what earlier revisions make that nobody has deployed yet; what this one makes is added to it.

    Raise LintError if an allowance has no reason or names no rule.
    """
    allowed = allowances(script)
    findings = list(judge(config, scripts, script, set() if made is None else made))
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
            raise LintError(f"{script.path}: `{match[0].strip()}` must be `# squawk-ignore RULE[, RULE]: REASON`")
    return {rule for match in matches for rule in re.split(", *", match[1])}


def judge(config: Config, scripts: ScriptDirectory, script: Script, made: Made) -> Iterator[Finding]:
    try:
        name = re.escape(version_table()[1])
        # Alembic's own note of the revision writes a row, too.
        sql = re.sub(
            rf"^(?:INSERT INTO|UPDATE|DELETE FROM) \S*\b{name}\b.*\n",
            "",
            one_line_each(render(config, scripts, script)),
            flags=re.MULTILINE,
        )
    except Exception as error:  # noqa: BLE001 - a revision is a program, which without a database may raise anything
        text = f"{type(error).__name__}: {error}"
        yield Finding(
            "not-renderable", text, "`--sql` cannot write it.", "Use `op.execute`, with SQL that runs online."
        )
        return
    findings = [*squawk(sql), *apply_rules(sql)]
    old, new_parts = sort(sql, made)
    for finding in findings:
        is_naming = finding.rule.startswith(NAMING)
        if is_naming and UNKNOWN_TO_CLIENTS.match(finding.statement):
            continue
        if finding.statement in old or (finding.statement in new_parts and not is_naming):
            yield finding


def sort(sql: str, made: Made) -> tuple[set[str], set[str]]:
    """Return the statements about what was there, and those about new parts of it; add to `made` what they make."""
    old, parts = set[str](), set[str]()
    for statement in sql.splitlines():
        subject = SUBJECT.match(statement)
        whole, part, name = subject.groups() if subject else ("", None, None)
        if (whole,) in made and not re.match("DROP .*,", statement, re.IGNORECASE):
            made |= {(name,)} if name and not part else set()
        elif (whole, part) in made:
            parts.add(statement)
            made |= {(whole, name)} if name else set()
        else:
            old.add(statement)
        if created := MADE.match(statement):
            made.add(tuple(filter(None, created.groups())))
    return old, parts


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
