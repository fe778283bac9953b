"""Links by which users set their password."""

import logging

from sqlalchemy.exc import SQLAlchemyError

from app.auth import mail, service
from app.auth.models import UserRole
from app.auth.settings import AuthSettings
from app.db.engine import DatabaseUnavailable
from app.db.session import Database
from app.project import project
from app.text import one_line

TEXT = """\
Set your password for {title} within an hour:

{url}#{token}

If you did not ask for this, do nothing: nothing changes.
"""

logger = logging.getLogger(__name__)


async def send_link(database: Database, settings: AuthSettings, email: str, *, register: bool = False) -> None:
    """Mail a new link to the user with this address, who may have to be registered first; no user, no mail.

    It runs after the answer, which so tells nobody whether there is one.
    """
    try:
        async with database.session() as session:
            if register:
                await service.add_user(session, email, UserRole.USER)
            token = await service.make_link(session, email)
    except (DatabaseUnavailable, SQLAlchemyError) as error:
        logger.error("a link for %s was not made: %s", email, one_line(error))
        return
    if token:
        title = project()["title"]
        text = TEXT.format(title=title, url=settings.web_url, token=token)
        await mail.send(settings, email, f"Your password for {title}", text)
