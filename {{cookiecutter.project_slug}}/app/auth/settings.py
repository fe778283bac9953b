"""What the environment says of users."""

from collections.abc import Iterator

from app.auth.fields import SMTPURL, Email, WebURL
from app.settings import DEPLOYED, Environment, EnvSettings


class AuthSettings(EnvSettings):
    environment: Environment = Environment.LOCAL
    registration: bool = False
    """May anyone become a user, by a link to their e-mail address? Otherwise an admin invites them"""
    web_url: WebURL = "http://127.0.0.1:8000/docs"
    """The page where users set their password, which finds the link's token behind the #"""
    smtp_url: SMTPURL | None = None
    """smtp://user:password@host:587 (STARTTLS) or smtps://; unset, mails go to the log, but not in staging and production"""
    mail_from: Email | None = None
    """The sender of mails"""

    def problems(self) -> Iterator[str]:
        """Yield what would send no mail, or links that others can read on their way."""
        is_deployed = self.environment in DEPLOYED
        if is_deployed and not self.web_url.startswith("https://"):
            yield f"WEB_URL must be set, to an address with https://, in {self.environment}"
        if is_deployed and self.smtp_url is None:
            yield f"SMTP_URL must be set in {self.environment}"
        if self.mail_from is None and (is_deployed or self.smtp_url):
            yield "MAIL_FROM must be set where mails are sent"
