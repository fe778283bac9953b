"""What clients send and receive as items."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated
from uuid import UUID

from pydantic import MISSING, AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from app.items.models import ItemStatus

Text = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # PostgreSQL's text holds any character but NUL
Name = Annotated[Text, Field(min_length=1, max_length=200)]
Description = Annotated[Text, Field(max_length=10_000)]
Price = Annotated[
    Decimal,
    Field(ge=0, max_digits=12, decimal_places=2),
    AfterValidator(lambda price: abs(price).quantize(Decimal("0.01"))),  # as it will be read: 3.00 for 3, 0.00 for -0
]
Tags = Annotated[set[Annotated[Text, Field(min_length=1, max_length=50)]], Field(max_length=20, examples=[["bright"]])]


class ItemCreate(BaseModel):
    name: Name
    description: Description | None = None
    price: Price
    status: ItemStatus = ItemStatus.DRAFT
    tags: Tags = set()


class ItemUpdate(BaseModel):
    name: Name | MISSING = MISSING
    description: Description | MISSING | None = MISSING
    price: Price | MISSING = MISSING
    status: ItemStatus | MISSING = MISSING
    tags: Tags | MISSING = MISSING


class ItemRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    description: str | None
    price: Decimal
    status: ItemStatus
    created_at: datetime
    updated_at: datetime
    tags: Annotated[list[str], BeforeValidator(lambda tags: sorted(getattr(tag, "name", tag) for tag in tags))]
