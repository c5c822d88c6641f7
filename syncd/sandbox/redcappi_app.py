"""What people do in RedCappi's dashboard or with a mail of its, for POST /_act."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from syncd.sandbox.deeds import carried_out
from syncd.sandbox.redcappi_account import Contact, Refused, Status

if TYPE_CHECKING:
    from syncd.sandbox.redcappi import RedCappi

ENDS: dict[str, Status] = {
    "unsubscribe": "unsubscribed",
    "complain": "complained",
    "bounce": "bounced",
    "do_not_mail": "do not mail",
}


class Deed(BaseModel):
    """Body of POST /_act."""

    model_config = ConfigDict(extra="forbid")

    do: Literal[
        "unsubscribe",
        "complain",
        "bounce",
        "do_not_mail",
        "resubscribe",
        "delete",
        "add",
        "set_field",
        "add_list",
        "rename_list",
        "delete_list",
        "regenerate_keys",
    ]
    email: str = ""
    list: int | None = None
    name: str = ""
    value: str = ""


def act(account: RedCappi, given: dict[str, Any]) -> dict[str, Any]:
    """Do one deed; ValueError says why it cannot be done."""
    return carried_out(account, Deed.model_validate(given), _done, Refused)


def _done(account: RedCappi, deed: Deed) -> dict[str, Any]:
    data = account.data
    match deed.do:
        case "add_list":
            return {"list": data.add_list(deed.name)}
        case "rename_list":
            data.lists[data.needed(_list(deed))] = deed.name
        case "delete_list":
            data.delete_list(_list(deed))
        case "add":
            made = data.add(_list(deed), account.blank(deed.email), account.limits.repeated_add)
            data.said_no.pop(deed.email.lower(), None)
            return {"contact": made.id}
        case "regenerate_keys":
            account.set_limits({"keys": {deed.name: deed.value}})
        case _:
            for contact in _contacts(account, deed):
                _to(account, contact, deed)
    return {}


def _to(account: RedCappi, contact: Contact, deed: Deed) -> None:
    data = account.data
    match deed.do:
        case "resubscribe":
            data.set_status(contact, "active")
            data.said_no.pop(contact.key, None)
        case "set_field":
            if deed.name not in contact.fields:
                raise ValueError(f"name: no field {deed.name!r}")
            contact.fields[deed.name] = deed.value
        case "delete":
            data.said_no[contact.key] = deed.do
            data.remove(contact, deed.list or 0, deed.list is None)
        case _:
            data.said_no[contact.key] = deed.do
            data.set_status(contact, ENDS[deed.do])


def _list(deed: Deed) -> int:
    if deed.list is None:
        raise ValueError("list: a list's id is needed")
    return deed.list


def _contacts(account: RedCappi, deed: Deed) -> list[Contact]:
    found = [
        one
        for one in list(account.data.at(deed.email))
        if deed.list is None or deed.list in one.lists
    ]
    if not found:
        raise ValueError(f"email: no contact {deed.email!r}")
    return found
