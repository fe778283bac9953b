"""Refuses answers that would make a broken service, before there is one."""

import re
import sys
import unicodedata

slug = {{ cookiecutter.project_slug | tojson }}
texts = {
    "project_name": {{ cookiecutter.project_name | tojson }},
    "description": {{ cookiecutter.description | tojson }},
    "author": {{ cookiecutter.author | tojson }},
}

if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", slug) or len(slug) > 63:
    sys.exit(
        f"project_slug {ascii(slug)} must be at most 63 lower-case letters, digits and single hyphens,"
        " and start with a letter, like my-service"
    )
for name, text in texts.items():
    if any(unicodedata.category(character) == "Cc" for character in text):
        sys.exit(f"{name} must be one line, without control characters")
if not texts["project_name"].strip():
    sys.exit("project_name must not be empty")
