"""Mails, by SMTP."""

import asyncio
import logging
import ssl
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from email.policy import SMTP as POLICY
from email.utils import formatdate, make_msgid
from smtplib import SMTP, SMTP_SSL
from urllib.parse import unquote, urlsplit

from app.auth.settings import AuthSettings
from app.text import one_line

PATIENCE = 10  # seconds, for each answer of the server
THREADS = ThreadPoolExecutor(4, "mail")  # of their own: a server that is slow must not keep others from the usual ones

logger = logging.getLogger(__name__)


async def send(settings: AuthSettings, to: str, subject: str, text: str) -> None:
    """Send a mail; one that cannot be sent is in the log, without its text."""
    if settings.smtp_url is None or settings.mail_from is None:
        logger.warning("SMTP_URL is not set, so this mail is not sent to %s: %s\n%s", to, subject, text)
        return
    message = EmailMessage(POLICY.clone(max_line_length=998))  # of RFC 5322: a link stays in one line
    message["From"], message["To"], message["Subject"] = settings.mail_from, to, subject
    message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain=settings.mail_from.rpartition("@")[2])
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    url = settings.smtp_url.get_secret_value()
    try:
        await asyncio.get_running_loop().run_in_executor(THREADS, deliver, url, message)
    except OSError as error:  # as smtplib's are, too
        logger.error("a mail to %s was not sent: %s", to, one_line(error))


def deliver(url: str, message: EmailMessage) -> None:
    """Hand a mail over to a server, encrypted.

    Raises:
        OSError: it could not be reached, is not who it should be, or refused.
    """
    parts, context = urlsplit(url), ssl.create_default_context()
    host = parts.hostname or ""
    server: SMTP
    if parts.scheme == "smtps":
        server = SMTP_SSL(host, parts.port or 465, timeout=PATIENCE, context=context)
    else:
        server = SMTP(host, parts.port or 587, timeout=PATIENCE)
    with server:
        if parts.scheme == "smtp":
            server.starttls(context=context)
        if parts.username:
            server.login(unquote(parts.username), unquote(parts.password or ""))
        server.send_message(message)
