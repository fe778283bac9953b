"""${message.replace("\\", "\\\\").replace('"""', "'''")}
% if drops is not UNDEFINED and drops:

DROPS ${", ".join(drops)}, WITH ALL DATA IN IT.
% for line in renames:
If this is a rename, write instead: ${line}
% endfor
% endif

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
Create Date: ${create_date}
"""

from collections.abc import Sequence

import sqlalchemy as sa  # noqa: F401
from alembic import op  # noqa: F401
${imports if imports else ""}
% if drops is not UNDEFINED and drop_all:

# squawk-ignore ban-drop-table: asked for by -x drop_all=yes
% endif

revision: str = ${repr(up_revision)}
down_revision: str | Sequence[str] | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    ${downgrades if downgrades else "pass"}
