"""The command line: python -m migrations.lint [FROM[:TO]]."""

import argparse
import sys

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from migrations.lint import ROOT, LintError, lint, select


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m migrations.lint", description="Finds migrations that are unsafe.")
    parser.add_argument("range", nargs="?", default="", metavar="FROM[:TO]", help="the revisions after FROM, up to TO")
    wanted = parser.parse_args().range

    config = Config(toml_file=ROOT / "pyproject.toml")
    scripts = ScriptDirectory.from_config(config)
    revisions = select(scripts, wanted)
    count = 0
    for revision in revisions:
        for finding in lint(config, scripts, revision):
            count += 1
            print(f"{revision.path}: {finding.rule}", *finding[1:], sep="\n    ", end="\n\n")
    if count:
        print("A comment in the revision allows a rule: # squawk-ignore RULE: REASON")
    else:
        print(f"Nothing unsafe; revisions judged: {len(revisions)}.")
    return 1 if count else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (LintError, CommandError) as error:
        sys.exit(f"migrations.lint: {error}")
