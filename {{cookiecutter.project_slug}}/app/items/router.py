"""Items over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query, Request, Response

from app.db.session import ReadSessionDep, SessionDep
from app.items import service
from app.items.models import ItemStatus
from app.items.schemas import ItemCreate, ItemRead, ItemUpdate, Text
from app.web.pagination import Cursor, Limit, Page

router = APIRouter(prefix="/items", tags=["items"])


def not_found() -> HTTPException:
    return HTTPException(404, "no item has this id")


@router.post("", status_code=201)
async def create_item(data: ItemCreate, session: SessionDep, request: Request, response: Response) -> ItemRead:
    """Create an item; no other has its name."""
    item = await service.create_item(session, data)
    response.headers["Location"] = f"{request.url.path}/{item.id}"
    return ItemRead.model_validate(item)


@router.get("")
async def list_items(
    session: ReadSessionDep,
    limit: Limit = 20,
    cursor: Cursor = None,
    status: ItemStatus | None = None,
    name_prefix: Annotated[Text, Query(max_length=200)] = "",
) -> Page[ItemRead]:
    """List items, the newest first: those of a status, and whose name begins as asked."""
    items = await service.list_items(session, before=cursor, limit=limit + 1, status=status, name_prefix=name_prefix)
    return Page[ItemRead].of(items, limit)


@router.get("/{item_id}")
async def read_item(item_id: UUID, session: ReadSessionDep) -> ItemRead:
    """Read an item."""
    item = await service.get_item(session, item_id)
    if item is None:
        raise not_found()
    return ItemRead.model_validate(item)


@router.patch("/{item_id}")
async def update_item(item_id: UUID, data: ItemUpdate, session: SessionDep) -> ItemRead:
    """Change the fields that are sent, and no others."""
    item = await service.update_item(session, item_id, data)
    if item is None:
        raise not_found()
    return ItemRead.model_validate(item)


@router.delete("/{item_id}", status_code=204)
async def delete_item(item_id: UUID, session: SessionDep) -> None:
    """Delete an item."""
    if not await service.delete_item(session, item_id):
        raise not_found()
