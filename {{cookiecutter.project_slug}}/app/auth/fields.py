"""What an e-mail address is, and the URLs of the settings."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr


def _web(url: str) -> str:
    if not url.startswith(("http://", "https://")) or not url.isprintable() or set(url) & set("# "):
        raise ValueError("must look like https://example.com/password, without a #")
    return url


def _smtp(url: SecretStr) -> SecretStr:
    parts = urlsplit(url.get_secret_value())
    try:
        is_sound = parts.scheme in ("smtp", "smtps") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # it quotes what should be a port, and may be of the password
        is_sound = False
    if not is_sound:
        raise ValueError(
            "must look like smtp://user:password@host:587 or smtps://, with %40 and the like in a password"
        )
    return url


# Of ASCII only, so that no two look alike.
Email = Annotated[
    str,
    Field(
        max_length=254,
        pattern=r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z0-9-]{2,}$",
        examples=["me@example.com"],
    ),
    AfterValidator(str.lower),
]
WebURL = Annotated[str, AfterValidator(_web)]
SMTPURL = Annotated[SecretStr, AfterValidator(_smtp)]
