"""One request, one transaction."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncSession


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """Yield a session whose transaction is committed after the path function, or rolled back if it raises."""
    async with request.app.state.sessionmaker.begin() as session:
        yield session


# Of function scope: the commit comes before the response, so a commit that fails is never a 2xx.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]
