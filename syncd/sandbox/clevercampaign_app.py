"""What people do in CleverCampaign's web interface or with a mail of its, for POST /_act."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from syncd.sandbox.clevercampaign_account import Contact, Refused
from syncd.sandbox.deeds import carried_out

if TYPE_CHECKING:
    from syncd.sandbox.clevercampaign import CleverCampaign


class Deed(BaseModel):
    """Body of POST /_act."""

    model_config = ConfigDict(extra="forbid")

    do: Literal[
        "unsubscribe",
        "resubscribe",
        "delete",
        "add",
        "set_field",
        "add_list",
        "rename_list",
        "delete_list",
        "join",
        "leave",
        "regenerate_keys",
    ]
    email: str = ""
    list: str | None = None
    name: str = ""
    value: str = ""


def act(account: CleverCampaign, given: dict[str, Any]) -> dict[str, Any]:
    """Do one deed; ValueError says why it cannot be done."""
    return carried_out(account, Deed.model_validate(given), _done, Refused)


def _done(account: CleverCampaign, deed: Deed) -> dict[str, Any]:
    data = account.data
    match deed.do:
        case "add":
            made = data.create(deed.email, {}, "double", 0)
            data.repeated_creates.clear()
            return {"contact": made.id}
        case "add_list":
            return {"list": data.add_list(deed.name).id}
        case "rename_list":
            data.needed_list(deed.list or "").name = deed.name
        case "delete_list":
            del data.lists[data.needed_list(deed.list or "").id]
        case "regenerate_keys":
            account.set_limits({"keys": {deed.name: deed.value}})
        case _:
            found = data.at(deed.email)
            if not found:
                raise ValueError(f"email: no contact {deed.email!r}")
            for contact in found:
                _to(account, contact, deed)
    return {}


def _to(account: CleverCampaign, contact: Contact, deed: Deed) -> None:
    data = account.data
    match deed.do:
        case "unsubscribe":
            contact.subscribed = False
            data.said_no[contact.key] = deed.do
        case "resubscribe":
            contact.subscribed = True
            data.said_no.pop(contact.key, None)
        case "delete":
            data.said_no[contact.key] = deed.do
            data.remove(contact)
        case "join":
            data.needed_list(deed.list or "").members[contact.id] = None
        case "leave":
            data.needed_list(deed.list or "").members.pop(contact.id, None)
        case _:
            contact.fields[deed.name] = deed.value
