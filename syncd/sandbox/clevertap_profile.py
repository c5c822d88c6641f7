"""One CleverTap profile: what it holds, how reads show it, how arrays and numbers change."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from syncd.sandbox.clevertap_validate import MOST_VALUES, Note

Shown = dict[str, Any]


@dataclass(slots=True, eq=False)
class Profile:
    """One user profile. Several identities or addresses only where profiles were merged."""

    identities: list[str]
    object_id: str | None = None
    emails: list[str] = field(default_factory=list)
    properties: dict[str, Any] = field(default_factory=dict)
    flags: dict[str, bool] = field(default_factory=dict)
    events: dict[str, tuple[int, int, int]] = field(default_factory=dict)  # count, first, last
    updates: int = 0
    changed_at: float = 0.0
    versions: list[tuple[float, Shown]] = field(default_factory=list)
    merged_into: Profile | None = None

    @property
    def key(self) -> str:
        """The name under which /_state shows it."""
        return self.identities[0] if self.identities else str(self.object_id)

    @property
    def identity(self) -> str | None:
        """As reads show it: a merged profile has several in one."""
        many = len(self.identities) > 1
        return f"[{' '.join(self.identities)}]" if many else next(iter(self.identities), None)


def shown(profile: Profile) -> Shown:
    """The profile as the API lets it be read. MSG-* flags cannot be."""
    rest = dict(profile.properties)
    name, phone = rest.pop("Name", None), rest.pop("Phone", None)
    top = {
        "identity": profile.identity,
        "email": profile.emails[-1] if profile.emails else None,
        "name": name,
        "phone": int(phone[1:]) if phone else None,
    }
    record: Shown = {key: value for key, value in top.items() if value is not None}
    record["profileData"] = rest
    if profile.events:
        record["events"] = {
            event: {"count": count, "first_seen": first, "last_seen": last}
            for event, (count, first, last) in profile.events.items()
        }
    if profile.object_id:
        record["platformInfo"] = [{"platform": "Web", "objectId": profile.object_id}]
    return record


def operate(
    held: dict[str, Any], name: str, value: dict[str, Any], limits: Any, note: Note
) -> None:
    """Apply one `$verb` to a property."""
    (verb, operand), *_ = value.items()
    old = held.get(name)
    array = old if isinstance(old, list) else [] if old is None else [str(old)]
    if verb == "$delete":
        if limits.delete_supported:
            held.pop(name, None)
    elif verb in ("$incr", "$decr"):
        base = old if isinstance(old, int | float) and not isinstance(old, bool) else 0
        held[name] = base + (operand if verb == "$incr" else -operand)
    elif verb == "$add":
        _hold(held, name, list(dict.fromkeys([*array, *operand])), note)
    elif verb == "$remove":
        _hold(held, name, [item for item in array if item not in operand], note)
    elif limits.set_supported:
        _hold(held, name, list(dict.fromkeys(operand)), note)


def _hold(held: dict[str, Any], name: str, array: list[str], note: Note) -> None:
    """Store an array: the oldest values fall out, an empty one is no property."""
    if len(array) > MOST_VALUES:
        note("array overflow", f"{name}: {len(array)} values")
        array = array[-MOST_VALUES:]
    if array:
        held[name] = array
    else:
        held.pop(name, None)
