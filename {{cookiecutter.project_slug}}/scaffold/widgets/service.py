"""What can be done."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from scaffold.widgets.models import Widget
from scaffold.widgets.schemas import WidgetCreate, WidgetUpdate


async def create_widget(session: AsyncSession, data: WidgetCreate) -> Widget:
    widget = Widget(**data.model_dump())
    session.add(widget)
    await session.flush()
    return widget


async def get_widget(session: AsyncSession, widget_id: UUID) -> Widget | None:
    return await session.get(Widget, widget_id)


async def list_widgets(session: AsyncSession, *, before: UUID | None, limit: int) -> Sequence[Widget]:
    """Return at most `limit`, newest first: those before the id `before`."""
    query = select(Widget).order_by(Widget.id.desc()).limit(limit)
    if before is not None:
        query = query.where(Widget.id < before)
    return (await session.scalars(query)).all()


async def update_widget(session: AsyncSession, widget_id: UUID, data: WidgetUpdate) -> Widget | None:
    """Change the fields that `data` has, and return the row, or None if there is none."""
    fields = data.model_dump()
    if not fields:
        return await get_widget(session, widget_id)
    return await session.scalar(update(Widget).where(Widget.id == widget_id).values(fields).returning(Widget))


async def delete_widget(session: AsyncSession, widget_id: UUID) -> bool:
    """Return whether there was one to delete."""
    deleted = await session.scalar(delete(Widget).where(Widget.id == widget_id).returning(Widget.id))
    return deleted is not None
