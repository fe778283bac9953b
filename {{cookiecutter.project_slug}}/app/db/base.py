"""The base of every model, and the column types they share."""

import enum
import sys
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated
from uuid import UUID

from sqlalchemy import Constraint, DateTime, Enum, MetaData, Table, func
from sqlalchemy.orm import DeclarativeBase, mapped_column

from app.settings import ConfigurationError

if sys.version_info >= (3, 14):
    from uuid import uuid7
else:
    from uuid_utils.compat import uuid7

UUIDKey = Annotated[UUID, mapped_column(primary_key=True, default=uuid7)]
CreatedAt = Annotated[datetime, mapped_column(server_default=func.now())]
UpdatedAt = Annotated[datetime, mapped_column(server_default=func.now(), onupdate=func.now())]


def check_name(check: Constraint, table: Table) -> str:
    """Return the name of a check.

    Raises:
        ConfigurationError: it has none.
    """
    if not isinstance(check.name, str):
        raise ConfigurationError(
            f'table {table.fullname}: a check has no name; give it one, as in CheckConstraint("price > 0", name="price_positive")'
        )
    return check.name


class Base(DeclarativeBase):
    # Every constraint has a name that a later migration can drop it by.
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "constraint_name": check_name,
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        }
    )
    type_annotation_map = {
        datetime: DateTime(timezone=True),
        # The database holds an enum's values; SQLAlchemy's default is the names of its members.
        enum.Enum: Enum(enum.Enum, values_callable=lambda members: [member.value for member in members]),
    }
    # Columns that the database fills in come back with the INSERT or UPDATE: async code cannot load them later.
    __mapper_args__ = {"eager_defaults": True}


if find_spec("sqlmodel"):
    import_module("sqlmodel").SQLModel.metadata = Base.metadata  # models on either base are one schema
