"""What is served under `/api/v1/widgets`."""

from uuid import UUID

from fastapi import APIRouter, HTTPException, Request, Response

from app.db.session import ReadSessionDep, SessionDep
from app.web.pagination import Cursor, Limit, Page
from scaffold.widgets import service
from scaffold.widgets.schemas import WidgetCreate, WidgetRead, WidgetUpdate

router = APIRouter(prefix="/widgets", tags=["widgets"])


def not_found() -> HTTPException:
    return HTTPException(404, "nothing here has this id")


@router.post("", status_code=201)
async def create_widget(data: WidgetCreate, session: SessionDep, request: Request, response: Response) -> WidgetRead:
    widget = await service.create_widget(session, data)
    response.headers["Location"] = f"{request.url.path}/{widget.id}"
    return WidgetRead.model_validate(widget)


@router.get("")
async def list_widgets(session: ReadSessionDep, limit: Limit = 20, cursor: Cursor = None) -> Page[WidgetRead]:
    widgets = await service.list_widgets(session, before=cursor, limit=limit + 1)
    return Page[WidgetRead].of(widgets, limit)


@router.get("/{widget_id}")
async def read_widget(widget_id: UUID, session: ReadSessionDep) -> WidgetRead:
    widget = await service.get_widget(session, widget_id)
    if widget is None:
        raise not_found()
    return WidgetRead.model_validate(widget)


@router.patch("/{widget_id}")
async def update_widget(widget_id: UUID, data: WidgetUpdate, session: SessionDep) -> WidgetRead:
    widget = await service.update_widget(session, widget_id, data)
    if widget is None:
        raise not_found()
    return WidgetRead.model_validate(widget)


@router.delete("/{widget_id}", status_code=204)
async def delete_widget(widget_id: UUID, session: SessionDep) -> None:
    if not await service.delete_widget(session, widget_id):
        raise not_found()
