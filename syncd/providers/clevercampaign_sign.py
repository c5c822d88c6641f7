"""CleverCampaign's signature, as its C# example makes it: pure. Reference, section 2."""

from __future__ import annotations

import base64
import hmac
import uuid


def fresh_salt() -> str:
    """As `Guid.NewGuid().ToString()`: lower case, hyphens, no braces; new for every request."""
    return str(uuid.uuid4())


def signature(secret: str, salt: str) -> str:
    """The salt's HMAC in base64, escaped as `HttpUtility.UrlEncode` does: in lower case."""
    digest = hmac.digest(secret.encode(), salt.encode(), "sha256")
    text = base64.b64encode(digest).decode("ascii")
    return text.replace("+", "%2b").replace("/", "%2f").replace("=", "%3d")
