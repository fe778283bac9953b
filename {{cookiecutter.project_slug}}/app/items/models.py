"""The tables of items and of their tags."""

from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Numeric, String
from sqlalchemy.orm import Mapped, mapped_column, relationship

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
    tags: Mapped[list["Tag"]] = relationship(cascade="all, delete-orphan", passive_deletes=True)


class Tag(Base):
    __tablename__ = "item_tags"

    item_id: Mapped[UUID] = mapped_column(ForeignKey(Item.id, ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(50), primary_key=True)
