"""What can be done with users and their sessions.

Whatever changes what lets a user in locks the user first, so that none of it races another.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Row, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.auth.models import PasswordLink, User, UserRole, UserSession
from app.auth.schemas import UserUpdate
from app.db.session import Database

LIFETIME, IDLE, LINK_LIFETIME = timedelta(days=30), timedelta(days=7), timedelta(hours=1)
NOTED = timedelta(hours=1)  # `last_used_at` is no more exact than this


@dataclass(frozen=True, slots=True)
class Caller:
    """The user who calls, as the database has them now; whatever else of a user routes want is another field here."""

    session_id: UUID
    id: UUID
    email: str
    role: UserRole
    is_active: bool
    created_at: datetime
    updated_at: datetime


class Account(NamedTuple):
    """What a log-in is checked against."""

    id: UUID
    password_hash: str | None
    password_set_at: datetime | None


IS_OVER = or_(UserSession.expires_at <= func.now(), UserSession.last_used_at <= func.now() - IDLE)
IS_UNNOTED = UserSession.last_used_at < func.now() - NOTED
OF_CALLER: list[Any] = [UserSession.id, *(getattr(User, field.name) for field in fields(Caller)[1:])]
BY_TOKEN = (
    select(*OF_CALLER, IS_UNNOTED)
    .join(User)
    .where(UserSession.token_hash == bindparam("token_hash"), ~IS_OVER, User.is_active)
)


def digest(token: str) -> bytes:
    return sha256(token.encode()).digest()


async def find_account(database: Database, criterion: ColumnElement[bool]) -> Account | None:
    columns = select(User.id, User.password_hash, User.password_set_at)
    row = await database.find(columns.where(criterion))
    return Account(*row) if row else None


async def find_caller(database: Database, token: str) -> Caller | None:
    """Return the user whose session has this token, and note its use; None: it is over, or the user may not use it."""
    row = await database.find(BY_TOKEN, {"token_hash": digest(token)})
    if row is None:
        return None
    *found, is_unnoted = row
    caller = Caller(*found)
    if is_unnoted:
        used = update(UserSession).where(UserSession.id == caller.session_id, IS_UNNOTED)
        async with database.session() as session:
            await session.execute(used.values(last_used_at=func.now()))
    return caller


async def start_session(
    session: AsyncSession, account: Account, user_agent: str | None, new_hash: str | None = None
) -> tuple[UserSession, str] | None:
    """Start a session, and return it with its token; None: the user is disabled, or has a new password since it was verified."""
    if not await lock_account(session, account):
        return None
    if new_hash:
        await session.execute(update(User).where(User.id == account.id).values(password_hash=new_hash))
    await session.execute(delete(UserSession).where(UserSession.user_id == account.id, IS_OVER))
    token = secrets.token_urlsafe(32)
    started = await session.scalar(
        insert(UserSession)
        .values(user_id=account.id, token_hash=digest(token), user_agent=user_agent, expires_at=func.now() + LIFETIME)
        .returning(UserSession)
    )
    assert started
    return started, token


async def lock_account(session: AsyncSession, account: Account) -> bool:
    """Lock the user, and say whether the password is still the same, and of use."""
    # The time, not the hash: that one changes with its parameters, too.
    same = (User.id == account.id, User.is_active, User.password_set_at == account.password_set_at)
    return await session.scalar(select(User.id).where(*same).with_for_update(key_share=True)) is not None


async def list_sessions(session: AsyncSession, user_id: UUID) -> Sequence[UserSession]:
    query = select(UserSession).where(UserSession.user_id == user_id, ~IS_OVER).order_by(UserSession.id.desc())
    return (await session.scalars(query)).all()


async def end_session(session: AsyncSession, user_id: UUID, session_id: UUID) -> bool:
    """Return whether the user had such a session."""
    mine = (UserSession.id == session_id, UserSession.user_id == user_id)
    return await session.scalar(delete(UserSession).where(*mine).returning(UserSession.id)) is not None


async def end_sessions(session: AsyncSession, user_id: UUID, *, but: UUID | None = None) -> None:
    """End the sessions of a user, but for one."""
    ended = delete(UserSession).where(UserSession.user_id == user_id)
    await session.execute(ended if but is None else ended.where(UserSession.id != but))


async def add_user(session: AsyncSession, email: str, role: UserRole, password_hash: str | None = None) -> User | None:
    """Add a user; None: there is one with this address."""
    password_set_at = func.now() if password_hash else None
    values = {"email": email, "role": role, "password_hash": password_hash, "password_set_at": password_set_at}
    added: User | None = await session.scalar(
        insert(User).values(values).on_conflict_do_nothing(index_elements=[User.email]).returning(User)
    )
    return added


async def list_users(session: AsyncSession, *, before: UUID | None, limit: int) -> Sequence[User]:
    """Return at most `limit` users, newest first: those before the id `before`."""
    query = select(User).order_by(User.id.desc()).limit(limit)
    return (await session.scalars(query if before is None else query.where(User.id < before))).all()


async def would_leave_no_admin(session: AsyncSession, user_id: UUID, data: UserUpdate) -> bool:
    """Say whether nobody would be left to change users; if not, no other admin goes meanwhile."""
    fields = data.model_dump()
    if fields.get("role", UserRole.ADMIN) == UserRole.ADMIN and fields.get("is_active", True):
        return False
    admins = select(User.id).where(User.role == UserRole.ADMIN, User.is_active).order_by(User.id)
    return (await session.scalars(admins.with_for_update(key_share=True))).all() == [user_id]


async def update_user(session: AsyncSession, user_id: UUID, data: UserUpdate) -> User | None:
    """Change the fields that `data` has, and return the user; one who is disabled is let in by nothing of before."""
    fields = data.model_dump()
    if not fields:
        return await session.get(User, user_id)
    user: User | None = await session.scalar(update(User).where(User.id == user_id).values(fields).returning(User))
    if user and not user.is_active:
        await end_sessions(session, user_id)
        await session.execute(delete(PasswordLink).where(PasswordLink.user_id == user_id))
    return user


async def make_link(session: AsyncSession, email: str) -> str | None:
    """Return the token of a new link, which is the user's only one; None: no user may have one."""
    user_id = await session.scalar(
        select(User.id).where(User.email == email, User.is_active).with_for_update(key_share=True)
    )
    if user_id is None:
        return None
    token = secrets.token_urlsafe(32)
    values = {"token_hash": digest(token), "expires_at": func.now() + LINK_LIFETIME}
    link = insert(PasswordLink).values(user_id=user_id, **values)
    await session.execute(link.on_conflict_do_update(index_elements=[PasswordLink.user_id], set_=values))
    return token


async def find_user_of_link(database: Database, token: str) -> Row[UUID, str] | None:
    """Return the `id` and `email` of whose link has this token; None: it is of no use."""
    return await database.find(select(User.id, User.email).join(PasswordLink).where(*link_of(token)))


def link_of(token: str) -> tuple[ColumnElement[bool], ...]:
    return PasswordLink.token_hash == digest(token), PasswordLink.expires_at > func.now()


async def use_link(session: AsyncSession, user_id: UUID, token: str) -> bool:
    """Return whether the user's link was still good; now it is not."""
    await session.execute(select(User.id).where(User.id == user_id).with_for_update(key_share=True))
    used = delete(PasswordLink).where(*link_of(token)).returning(PasswordLink.user_id)
    return await session.scalar(used) == user_id


async def set_password(session: AsyncSession, user_id: UUID, password_hash: str, *, but: UUID | None = None) -> None:
    """Set a password, and end what the one before has let in, but for one session, and what could set another."""
    values = {"password_hash": password_hash, "password_set_at": func.now()}
    await session.execute(update(User).where(User.id == user_id).values(values))
    await session.execute(delete(PasswordLink).where(PasswordLink.user_id == user_id))
    await end_sessions(session, user_id, but=but)
