"""The command line: python -m migrations.lint [FROM[:TO]]."""

import argparse
import sys

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from migrations.lint import ROOT, LintError, Made, lint, select


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m migrations.lint", description="Finds migrations that are unsafe.")
    what = "the revisions after FROM, which is deployed, up to TO; FROM is a revision, a git branch, or `database`"
    parser.add_argument("range", nargs="?", default="", metavar="FROM[:TO]", help=what)
    wanted = parser.parse_args().range
    start = wanted.partition(":")[0]

    config = Config(toml_file=ROOT / "pyproject.toml")
    scripts = ScriptDirectory.from_config(config)
    revisions = select(config, scripts, wanted)
    made: Made = set()
    count = 0
    for revision in revisions:
        for finding in lint(config, scripts, revision, made if start else None):
            count += 1
            print(f"{revision.path}: {finding.rule}", *finding[1:], sep="\n    ", end="\n\n")
    if count:
        print("A comment in the revision allows rules: # squawk-ignore RULE[, RULE]: REASON")
    else:
        print(f"Nothing unsafe; revisions judged: {len(revisions)}.")
    deployed = f"only what {start} has" if start else "all that is older than the revision; FROM says what really is"
    print(f"Judged as deployed: {deployed}.")
    return 1 if count else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (LintError, CommandError) as error:
        sys.exit(f"migrations.lint: {error}")
