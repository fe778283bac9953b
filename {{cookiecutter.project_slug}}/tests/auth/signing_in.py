"""Users who are logged in, for tests of what only they may do."""

from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncSession

from app.auth import service
from app.auth.models import User, UserRole


async def sign_in(
    session: AsyncSession, email: str = "me@example.com", role: UserRole = UserRole.USER
) -> dict[str, str]:
    """Add a user, and return the headers of a session of theirs: `client.headers |= await sign_in(session)`."""
    user = User(email=email, role=role, password_set_at=datetime.now(UTC))
    session.add(user)
    await session.flush()
    account = service.Account(user.id, None, user.password_set_at)
    started = await service.start_session(session, account, "tests")
    assert started
    await session.commit()
    return {"Authorization": f"Bearer {started[1]}"}
