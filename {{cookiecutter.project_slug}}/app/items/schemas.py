"""What clients send and receive as items."""

import re
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import MISSING, BaseModel, BeforeValidator, ConfigDict, Field

from app.items.models import ItemStatus

DIGITS = r"[0-9]{1,10}(\.[0-9]{1,2})?"


def parse_price(price: Any) -> Decimal:
    """Return a price as it will be read, 3.00 for 3; of what Decimal takes, 1e3 and +1 are not in the document."""
    if not re.fullmatch(DIGITS, str(price)):
        raise ValueError("a price is like 19.90")
    return Decimal(str(price)).quantize(Decimal("0.01"))


Text = Annotated[str, Field(pattern=r"^[^\x00]*$", examples=["text"])]  # PostgreSQL's holds any character but NUL
Name = Annotated[Text, Field(min_length=1, max_length=200, examples=["Lamp"])]
Description = Annotated[Text, Field(max_length=10_000, examples=["It shines"])]
PriceInput = (
    Annotated[str, Field(pattern=f"^{DIGITS}$")] | Annotated[float, Field(ge=0, le=9_999_999_999.99, multiple_of=0.01)]
)
Price = Annotated[Decimal, BeforeValidator(parse_price, json_schema_input_type=PriceInput), Field(examples=["19.90"])]
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
