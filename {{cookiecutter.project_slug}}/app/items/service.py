"""What can be done with items."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import bindparam, delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.items.models import Item, ItemStatus
from app.items.schemas import ItemCreate, ItemUpdate

# Read often, so built once.
BY_ID = select(Item).where(Item.id == bindparam("item_id"))
NEWEST = select(Item).order_by(Item.id.desc()).limit(bindparam("limit"))


async def create_item(session: AsyncSession, data: ItemCreate) -> Item:
    item = Item(**data.model_dump())
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
    return await session.scalar(update(Item).where(Item.id == item_id).values(fields).returning(Item))


async def delete_item(session: AsyncSession, item_id: UUID) -> bool:
    """Return whether there was an item to delete."""
    deleted = await session.scalar(delete(Item).where(Item.id == item_id).returning(Item.id))
    return deleted is not None
