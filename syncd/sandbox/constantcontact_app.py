"""What people do in Constant Contact's dashboard or with a mail of its, for POST /_act."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from syncd.sandbox.constantcontact_account import FIELDS, Contact

if TYPE_CHECKING:
    from syncd.sandbox.constantcontact import ConstantContact


class Deed(BaseModel):
    """Body of POST /_act."""

    model_config = ConfigDict(extra="forbid")

    do: Literal[
        "add",
        "add_list",
        "rename_list",
        "delete_list",
        "unsubscribe",
        "resubscribe",
        "leave_list",
        "join_list",
        "set_field",
        "delete",
    ]
    email: str = ""
    list: int | None = None
    name: str = ""
    value: str = ""


def act(account: ConstantContact, given: dict[str, Any]) -> dict[str, Any]:
    """Do one deed; ValueError says why it cannot be done."""
    deed = Deed.model_validate(given)
    told = _of_lists(account, deed) if "_list" in deed.do and not deed.email else _of(account, deed)
    account.note(0, "act", **deed.model_dump(exclude_defaults=True))
    return told


def _of_lists(account: ConstantContact, deed: Deed) -> dict[str, Any]:
    data = account.data
    if deed.do == "add_list":
        return {"list": data.add_list(deed.name).id}
    number = _list(account, deed)
    if deed.do == "rename_list":
        data.lists[number].name = deed.name
    elif deed.do == "delete_list":
        data.delete_list(number)
    else:
        raise ValueError("email: an address is needed")
    return {}


def _list(account: ConstantContact, deed: Deed) -> int:
    if deed.list not in account.data.lists:
        raise ValueError(f"list: no list {deed.list}")
    return deed.list


def _of(account: ConstantContact, deed: Deed) -> dict[str, Any]:
    data, email = account.data, deed.email.lower()
    if deed.do == "add":
        if email in data.by_email:
            raise ValueError(f"email: {email!r} is there")
        data.add(email).join({_list(account, deed)})
        return {"contact": data.by_email[email].id}
    one = data.by_email.get(email)
    if one is None:
        raise ValueError(f"email: no contact {deed.email!r}")
    _to(account, one, deed)
    return {}


def _to(account: ConstantContact, one: Contact, deed: Deed) -> None:
    match deed.do:
        case "unsubscribe":
            account.data.opt_out(one, "ACTION_BY_CONTACT")
        case "resubscribe":
            one.status = "Active"
            one.join({_list(account, deed)})
        case "delete":  # the record stays, in no list
            one.join(set())
        case "leave_list":
            one.join(set(one.lists) - {_list(account, deed)})
        case "join_list":
            one.join({*one.lists, _list(account, deed)})
        case _:
            if deed.name not in FIELDS:
                raise ValueError(f"name: no field {deed.name!r}")
            one.fields[deed.name] = deed.value
            one.touch()
