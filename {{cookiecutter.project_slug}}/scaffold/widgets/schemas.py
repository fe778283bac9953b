"""What clients send and receive."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import MISSING, BaseModel, ConfigDict, Field

# PostgreSQL's text holds any character but NUL.
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]*$", examples=["Lamp"])]


class WidgetCreate(BaseModel):
    name: Name


class WidgetUpdate(BaseModel):
    name: Name | MISSING = MISSING


class WidgetRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    created_at: datetime
    updated_at: datetime
