"""What people do in Copernica's app or with a mail of its, for POST /_act."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from syncd.sandbox.copernica_account import Column, Profile, Refused
from syncd.sandbox.deeds import carried_out

if TYPE_CHECKING:
    from syncd.sandbox.copernica import Copernica


class Deed(BaseModel):
    """Body of POST /_act. A person is named by address or by the profile's id."""

    model_config = ConfigDict(extra="forbid")

    do: Literal[
        "unsubscribe",
        "complain",
        "resubscribe",
        "delete",
        "add",
        "set_field",
        "add_field",
        "rename_field",
        "delete_field",
        "set_unsubscribe",
        "add_interest",
        "leave",
        "expire_passes",
        "revoke",
    ]
    email: str = ""
    profile: int | None = None
    name: str = ""
    value: str = ""
    type: str = "text"
    group: str = ""
    fields: dict[str, str] = Field(default_factory=dict)
    interests: list[str] = Field(default_factory=list)


def act(copernica: Copernica, given: dict[str, Any]) -> dict[str, Any]:
    """Do one deed; ValueError says why it cannot be done."""
    return carried_out(copernica, Deed.model_validate(given), _defined, Refused)


def _defined(copernica: Copernica, deed: Deed) -> dict[str, Any]:
    data = copernica.data
    match deed.do:
        case "add":
            made = data.add({"email": deed.email, **deed.fields})
            made.interests |= set(deed.interests)
            return {"profile": made.id}
        case "add_field":
            return {"field": data.add_column(deed.name, deed.type, deed.value).id}
        case "rename_field":
            data.rename_column(_column(copernica, deed), deed.value)
        case "delete_field":
            data.drop_column(_column(copernica, deed))
        case "set_unsubscribe":
            data.behaviour = {"behavior": deed.value, "fields": deed.fields}
        case "add_interest":
            return {"interest": data.add_interest(deed.name, deed.group)}
        case "expire_passes":
            copernica.passes.clear()
        case "revoke":  # whoever let the applications in has had enough of them
            copernica.door.granted.clear()
            copernica.passes.clear()
        case _:
            for profile in _people(copernica, deed):
                _to(copernica, profile, deed)
    return {}


def _to(copernica: Copernica, profile: Profile, deed: Deed) -> None:
    data = copernica.data
    match deed.do:
        case "resubscribe":
            data.store(profile, deed.fields or {"newsletter": "yes"})
            data.said_no.pop(profile.id, None)
        case "delete":
            data.remove(profile)
        case "set_field":
            data.store(profile, {deed.name: deed.value})
        case "leave":
            profile.interests.discard(deed.name)
        case _:
            data.said_no[profile.id] = deed.do
            if data.behaviour["behavior"] == "remove":
                data.remove(profile)
            elif data.behaviour["behavior"] == "update":
                data.store(profile, data.behaviour["fields"])


def _column(copernica: Copernica, deed: Deed) -> Column:
    found = copernica.data.column(deed.name)
    if found is None:
        raise ValueError(f"name: no field {deed.name!r}")
    return found


def _people(copernica: Copernica, deed: Deed) -> list[Profile]:
    found = [
        one
        for one in copernica.data.live()
        if one.id == deed.profile
        or (deed.email and one.fields["email"].lower() == deed.email.lower())
    ]
    if not found:
        raise ValueError(f"nobody: {deed.email or deed.profile}")
    return found
