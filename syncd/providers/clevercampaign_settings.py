"""Every name that CleverCampaign does not document, in one table; and the credential.

Documented are the host, the resource `contact`, its three fields, the four verbs and the three
headers. All else below is the most usual shape (reference, section 3): whoever learns the real
names from the provider changes rows in `options`, not code.
"""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from syncd.providers import Credential, Options

BASE_URL = "https://clevercampaign.com/api"

_PATH = re.compile(r"[A-Za-z0-9_.~{}-]+(?:/[A-Za-z0-9_.~{}-]+)*")
_NAME = re.compile(r"[A-Za-z0-9_.$\[\]-]+")


class CleverCampaignOptions(Options):
    """`options` of a destination; config/ holds an annotated example."""

    contact_path: str = "contact"
    list_path: str = "list"
    member_path: str = "list/{list_id}/contact"
    update_verb: Literal["PUT", "POST", "PATCH"] = "PUT"
    find_param: str = "email"  # empty: no search
    page_param: str = "page"  # empty: one answer holds everything
    size_param: str = "pagesize"  # empty: the size of a page cannot be asked for
    first_page: int = Field(default=1, ge=0, le=1)
    page_size: int = Field(default=100, ge=2, le=10_000)
    email_field: str = "email"
    id_field: str = "id"
    status_field: str = "status"
    list_name_field: str = "name"
    member_id_field: str = "contactid"
    status_subscribed: str = "subscribed"
    status_unsubscribed: str = "unsubscribed"
    envelope: str = ""  # the key that wraps answers; empty: guess
    lists_enabled: bool = False
    write_unsubscribe: bool = False
    account_is_empty: bool = False

    @field_validator("contact_path", "list_path", "member_path")
    @classmethod
    def _is_a_path(cls, path: str) -> str:
        if not _PATH.fullmatch(path.replace("{list_id}", "1")):
            raise ValueError("is not a path below base_url, without a slash at either end")
        return path

    @field_validator("member_path")
    @classmethod
    def _names_the_list(cls, path: str) -> str:
        if path.count("{list_id}") != 1:
            raise ValueError("must hold {list_id} once")
        return path

    @field_validator("find_param", "page_param", "size_param")
    @classmethod
    def _is_a_parameter(cls, name: str) -> str:
        if name and not _NAME.fullmatch(name):
            raise ValueError("is not the name of a parameter")
        return name

    @field_validator(
        "email_field", "id_field", "status_field", "list_name_field", "member_id_field",
        "status_subscribed", "status_unsubscribed",
    )  # fmt: skip
    @classmethod
    def _is_said(cls, text: str) -> str:
        if not text.strip() or not text.isprintable():
            raise ValueError("is empty, or holds what no name does")
        return text

    @model_validator(mode="after")
    def _tells_apart(self) -> Self:
        if self.status_subscribed.lower() == self.status_unsubscribed.lower():
            raise ValueError("status_subscribed and status_unsubscribed are the same")
        return self


class CleverCampaignCredential(Credential):
    """The pair of keys in the account's settings."""

    api_key: SecretStr
    secret_key: SecretStr

    @field_validator("api_key", "secret_key")
    @classmethod
    def _stripped(cls, secret: SecretStr) -> SecretStr:
        text = secret.get_secret_value().strip()
        if not text or not text.isprintable():
            raise ValueError("is empty, or holds what no key does")
        return SecretStr(text)

    @field_validator("api_key")
    @classmethod
    def _fits_a_header(cls, secret: SecretStr) -> SecretStr:
        if not secret.get_secret_value().isascii():
            raise ValueError("holds what the header cannot carry")
        return secret
