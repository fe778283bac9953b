"""The table of items."""

from decimal import Decimal
from enum import StrEnum

from sqlalchemy import CheckConstraint, Index, Numeric, String
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, CreatedAt, UpdatedAt, UUIDKey


class ItemStatus(StrEnum):
    DRAFT = "draft"
    ACTIVE = "active"
    ARCHIVED = "archived"


class Item(Base):
    __tablename__ = "items"
    __table_args__ = (
        CheckConstraint("name <> ''", name="name_not_empty"),
        CheckConstraint("price >= 0", name="price_not_negative"),
        Index(None, "status", "id"),
        Index(None, "name", postgresql_ops={"name": "text_pattern_ops"}),  # finds prefixes, whatever the collation
    )

    id: Mapped[UUIDKey]
    name: Mapped[str] = mapped_column(String(200), unique=True)
    description: Mapped[str | None] = mapped_column(String(10_000))
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    status: Mapped[ItemStatus] = mapped_column(server_default=ItemStatus.DRAFT.value)
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[UpdatedAt]
