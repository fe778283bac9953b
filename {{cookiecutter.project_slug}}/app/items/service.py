"""What can be done with items."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import bindparam, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from app.items.models import Item, ItemStatus, Tag
from app.items.schemas import ItemCreate, ItemUpdate

WITH_TAGS = selectinload(Item.tags)  # by one more statement, for however many items
# Read often, so built once.
BY_ID = select(Item).where(Item.id == bindparam("item_id")).options(WITH_TAGS)
NEWEST = select(Item).order_by(Item.id.desc()).limit(bindparam("limit")).options(WITH_TAGS)


async def create_item(session: AsyncSession, data: ItemCreate) -> Item:
    item = Item(**data.model_dump(exclude={"tags"}), tags=[Tag(name=name) for name in data.tags])
    session.add(item)
    await session.flush()
    return item


async def get_item(session: AsyncSession, item_id: UUID) -> Item | None:
    return await session.scalar(BY_ID, {"item_id": item_id})


async def list_items(
    session: AsyncSession, *, before: UUID | None, limit: int, status: ItemStatus | None = None, name_prefix: str = ""
) -> Sequence[Item]:
    """Return at most `limit` items, newest first: those before the id `before`, of the status and with the prefix."""
    query = NEWEST
    if before is not None:
        query = query.where(Item.id < before)
    if status is not None:
        query = query.where(Item.status == status)
    if name_prefix:
        query = query.where(Item.name.startswith(name_prefix, autoescape=True))
    return (await session.scalars(query, {"limit": limit})).all()


async def update_item(session: AsyncSession, item_id: UUID, data: ItemUpdate) -> Item | None:
    """Change the fields that `data` has, and return the item, or None if there is none."""
    fields = data.model_dump()
    if not fields:
        return await get_item(session, item_id)
    names = fields.pop("tags", None)
    changed = update(Item).where(Item.id == item_id).values(fields | {"updated_at": func.now()}).returning(Item)
    item = await session.scalar(changed.options(WITH_TAGS))
    if item is not None and names is not None:
        item.tags = [Tag(name=name) for name in names]
        await session.flush()
    return item


async def delete_item(session: AsyncSession, item_id: UUID) -> bool:
    """Return whether there was an item to delete."""
    deleted = await session.scalar(delete(Item).where(Item.id == item_id).returning(Item.id))
    return deleted is not None
