"""Refuses answers that would make a broken service, before there is one."""

import json
import re
import shutil
import sys
import unicodedata
from pathlib import Path

# As JSON, in which an emoji is two escapes; `tojson` escapes a ', too.
slug = json.loads(r'{{ cookiecutter.project_slug | tojson }}')
texts = {
    "project_name": json.loads(r'{{ cookiecutter.project_name | tojson }}'),
    "description": json.loads(r'{{ cookiecutter.description | tojson }}'),
    "author": json.loads(r'{{ cookiecutter.author | tojson }}'),
}

if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug) or len(slug) > 63:
    sys.exit(
        f"project_slug {ascii(slug)} must be at most 63 lower-case letters, digits and single hyphens,"
        " and start with a letter, like my-service"
    )
# Control and format characters, which nobody sees, separators of lines, and halves of a character.
REFUSED = ("Cc", "Cf", "Cs", "Zl", "Zp")

for name, text in texts.items():
    for character in text:
        if unicodedata.category(character) in REFUSED:
            sys.exit(f"{name} must be one line of characters that can be seen, without U+{ord(character):04X}")
if not texts["project_name"].strip():
    sys.exit("project_name must not be empty")

# The files of a declined answer are rendered, too, before they are removed: a domain of the service's own that has the name of one
# is put aside.
kept = Path(".kept")
for folder in [] if kept.exists() else ("app/auth", "app/oidc", "tests/auth", "tests/oidc"):
    if Path(folder).is_dir():
        shutil.copytree(folder, kept / folder, ignore=shutil.ignore_patterns("__pycache__"))
