"""The types of columns that SQLAlchemy lacks, for revisions: they hold no import of the application, which may move on."""

from sqlalchemy.types import UserDefinedType


class SQLType(UserDefinedType[object]):
    """A type by its name in SQL."""

    cache_ok = True

    def __init__(self, sql: str) -> None:
        self.sql = sql

    def get_col_spec(self, **_: object) -> str:
        return self.sql
