"""What squawk (https://squawkhq.com/docs/rules) lacks of strong_migrations' catalogue of unsafe operations.

A pattern is searched for in each transaction, where every statement has a line of its own and its spaces are single.
"""

from typing import NamedTuple

ALTER_TABLE = r"^ALTER TABLE (?:IF EXISTS |ONLY )*\S+ (?:.*, )?"
ADD_COLUMN = rf'{ALTER_TABLE}ADD (?:COLUMN )?(?:IF NOT EXISTS )?(?:"[^"]+"|\S+) '


class Rule(NamedTuple):
    name: str
    pattern: str
    reason: str
    safe_form: str
    beside: str = ""  # a pattern that the transaction must match as well


RULES = [
    Rule(
        "adding-serial-field",
        rf"{ADD_COLUMN}(?:SMALL|BIG)?SERIAL\d?\b",
        "An auto-incrementing column rewrites the whole table under a lock that blocks reads and writes.",
        "Add a nullable column, then set its default to `nextval(...)`, then backfill it in batches.",
    ),
    Rule(
        "adding-json-field",
        rf"{ADD_COLUMN}JSON\b",
        "The type json has no equality: a SELECT DISTINCT on the table starts to fail.",
        "Use jsonb (`postgresql.JSONB`).",
    ),
    Rule(
        "adding-check-constraint",
        rf"{ALTER_TABLE}ADD (?:.*\bCHECK ?\(|CONSTRAINT \S+ NOT NULL )(?!.*\bNOT VALID\b)",
        "Every row is checked under a lock that blocks reads and writes.",
        "Add it with NOT VALID (`postgresql_not_valid=True`), and VALIDATE CONSTRAINT in a later revision.",
    ),
    Rule(
        "adding-exclusion-constraint",
        rf"{ALTER_TABLE}ADD (?:CONSTRAINT \S+ )?EXCLUDE\b",
        "Its index is built under a lock that blocks reads and writes.",
        "PostgreSQL has no other way: create a new table with it, or add it while the table is small.",
    ),
    Rule(
        "validating-at-once",
        rf"{ALTER_TABLE}VALIDATE CONSTRAINT ",
        "The lock of ADD CONSTRAINT, which blocks writes, is held while VALIDATE CONSTRAINT reads the whole table.",
        "Use VALIDATE CONSTRAINT in a later revision.",
        beside=r"\bNOT VALID\b",
    ),
    Rule(
        "backfill-beside-ddl",
        r"^(?:WITH .*\) )?(?:UPDATE|DELETE FROM|MERGE INTO) ",
        "The locks of the schema changes in this transaction are held until every row is written.",
        "Write the rows in a revision of its own, in batches.",
        beside=r"\ABEGIN;(?s:.*)^(?:ALTER|CREATE|DROP) ",
    ),
    Rule(
        "using-new-enum-value",
        r"\ABEGIN;\n(?:.*\n)*?ALTER TYPE .*ADD VALUE (?:IF NOT EXISTS )?('[^']*')(?s:.*)\n.*\1",
        "PostgreSQL refuses to use an enum's new value before the transaction that adds it has ended.",
        "Use the value in a later revision.",
    ),
    Rule(
        "truncating-table",
        r"^TRUNCATE ",
        "TRUNCATE deletes every row, under a lock that blocks reads and writes.",
        "Delete in batches what nothing needs, or create a new table instead.",
    ),
    Rule(
        "locking-table",
        r"^LOCK ",
        "The lock is held until the transaction ends, and whoever needs the table waits.",
        "Leave the locks to the statements that need them.",
    ),
    Rule(
        "rewriting-table",
        rf"^VACUUM (?:FULL\b|\([^)]*\bFULL\b)|^CLUSTER\b|{ALTER_TABLE}SET (?:LOGGED|UNLOGGED|TABLESPACE|ACCESS METHOD)\b",
        "The whole table is copied under a lock that blocks reads and writes.",
        "Use plain VACUUM, or pg_repack outside of migrations.",
    ),
    Rule(
        "refreshing-materialized-view",
        r"^REFRESH MATERIALIZED VIEW (?!CONCURRENTLY )",
        "The refresh blocks all reads of the view.",
        "Give the view a unique index and use REFRESH MATERIALIZED VIEW CONCURRENTLY.",
    ),
    Rule(
        "attaching-partition",
        r"\A(?:(?!.* VALIDATE CONSTRAINT ).*\n)*?ALTER TABLE .* ATTACH PARTITION ",
        "The whole partition is read under a lock that blocks reads and writes.",
        "First give it a CHECK that says what its bounds say, NOT VALID, and VALIDATE it just before ATTACH PARTITION.",
    ),
]
