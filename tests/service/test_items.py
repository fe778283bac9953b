"""What a client may have the example read and write has a bound, however many items there are."""

from collections.abc import Iterator
from itertools import product
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from sqlalchemy import String, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.items import service
from app.items.models import Item, ItemStatus, Tag


def unbounded(schema: Any, document: Any) -> Iterator[Any]:
    """Yield the parts of a schema that are texts or lists of any length; of a number, the digits are counted."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if schema.get("type") == "string" and not {"maxLength", "enum"} & set(schema):
        yield schema
    if schema.get("type") == "array":
        if "maxItems" not in schema:
            yield schema
        yield from unbounded(schema["items"], document)
    either = schema.get("anyOf", ())
    if not any(part.get("type") == "number" for part in either):
        for part in (*either, *schema.get("properties", {}).values()):
            yield from unbounded(part, document)


async def test_each_text_and_list_that_clients_send_has_a_longest_length(app: FastAPI) -> None:
    document = app.openapi()
    bodies = [
        operation["requestBody"]["content"]["application/json"]["schema"]
        for path in document["paths"].values()
        for operation in path.values()
        if "requestBody" in operation
    ]
    assert len(bodies) == 2
    assert not [part for body in bodies for part in unbounded(body, document)]


def test_each_text_that_clients_send_has_a_longest_length_in_its_column() -> None:
    columns = [*Item.__table__.columns, *Tag.__table__.columns]
    texts = [column.type for column in columns if isinstance(column.type, String)]
    assert len(texts) == 4  # the status is one of a few
    assert all(kind.length for kind in texts)


async def test_no_filter_reads_much_more_than_it_returns(session: AsyncSession) -> None:
    """On a collation other than C, in which the usual index finds no prefixes. One item of 20,000 is active, none archived."""
    await session.execute(
        text(
            "DO $$ BEGIN EXECUTE (SELECT format('ALTER TABLE items ALTER name TYPE varchar(200) COLLATE %I', collname)"
            " FROM pg_collation WHERE collprovider = 'c' AND collname NOT IN ('C', 'POSIX') LIMIT 1); END $$"
        )
    )
    await session.execute(
        text(
            "INSERT INTO items (id, name, price, status) SELECT lpad(to_hex(n), 32, '0')::uuid, 'item ' || n, 1,"
            " (CASE n WHEN 1 THEN 'active' ELSE 'draft' END)::itemstatus FROM generate_series(1, 20000) AS n"
        )
    )
    await session.execute(text("ANALYZE items"))
    rows_read = text("SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'items'")
    read = {}
    for query in product(
        [None, UUID(int=2**128 - 1), UUID(int=20)], [None, *ItemStatus], ["", "item 1", "item 19999", "nothing"]
    ):
        before, status, name_prefix = query
        already = await session.scalar(rows_read)
        await service.list_items(session, before=before, limit=21, status=status, name_prefix=name_prefix)
        read[query] = await session.scalar(rows_read) - already
    assert not {query: rows for query, rows in read.items() if rows > 300}
