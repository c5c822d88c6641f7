"""What a difference between desired and mirror is: pure functions, no database.

`classify` is the plan's (what is to be journalled, and what the guard counts); the claim's own
decision, which may soften that but never harden it, is `syncd.decide`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from syncd.addresses import SHARES
from syncd.db import Row

Wish = Literal["upsert", "remove"]
Counted = Literal["remove", "change", "opt_out"]

OPT_OUT_LANE, FRESH_LANE, REMOVAL_LANE, BACKFILL_LANE = 0, 1, 2, 3
HELD = ("here", "adopted")  # mirror states in which the provider has the contact


class Planned(NamedTuple):
    """One journal row to be. `counted`: what the guard counts it as (None: free)."""

    contact_id: str
    wish: Wish
    lane: int
    counted: Counted | None
    digest: Any = None
    fault: str | None = None


def classify(row: Row, when_gone: str, full: bool, force: bool) -> Planned | None:
    """What the plan does about one row of a comparison; None: nothing."""
    contact_id = row["contact_id"]
    if not row["wanted"]:
        return _gone(row, when_gone)
    digest, known = row["digest"], row["m_state"] in HELD
    if row["fault"] is not None and unfit(row) and when_gone != "keep":
        counted: Counted | None = None if _judged_before(row, "remove") else "remove"
        return Planned(contact_id, "remove", REMOVAL_LANE, counted)
    if row["j_state"] == "rejected" and row["j_digest"] == digest and not force:
        return None  # refused as it is; tried again when its data change, or by `retry`
    if row["fault"] is not None:
        return Planned(contact_id, "upsert", FRESH_LANE, None, digest, row["fault"])
    lane = BACKFILL_LANE if full else FRESH_LANE
    in_step = row["m_digest"] == digest and row["m_state"] in ("here", "absent")
    if in_step and not force:
        touched = row["j_state"] is not None or row["in_window"]
        return Planned(contact_id, "upsert", lane, None, digest) if touched else None
    if known and row["m_subscribed"] and not row["subscribed"]:
        return Planned(contact_id, "upsert", OPT_OUT_LANE, "opt_out", digest)
    counted = "change" if known and not in_step else None
    if _judged_before(row, "upsert") or (row["m_state"] == "here" and row["m_digest"] is None):
        counted = None  # or a repeat of what was counted when it was sent and its answer lost
    return Planned(contact_id, "upsert", lane, counted, digest)


def unfit(row: Row) -> bool:
    """Whether a contact that cannot be sent must not stay as the provider has it: its address is
    no longer its own (and others may wait for it), or it is to be mailed no more."""
    if row["m_state"] not in HELD:
        return False
    twice = (row["fault"] or "").startswith(SHARES)  # both are there, under one address
    silent = row["m_subscribed"] and not row["subscribed"]
    return bool(twice or silent or row["email"] != row["m_email"])


def _gone(row: Row, when_gone: str) -> Planned | None:
    contact_id = row["contact_id"]
    if row.get("erase"):
        return Planned(contact_id, "remove", OPT_OUT_LANE, None)
    if row["m_state"] in HELD and when_gone != "keep":
        counted: Counted | None = None if _judged_before(row, "remove") else "remove"
        return Planned(contact_id, "remove", REMOVAL_LANE, counted)
    if row["m_state"] == "absent" or row["j_state"] is not None or row["in_window"]:
        # Perhaps being created at this moment: if so it comes back here, and is then counted.
        return Planned(contact_id, "upsert", REMOVAL_LANE, None)
    return None


def _judged_before(row: Row, wish: Wish) -> bool:
    """Whether the guard has let this pass already, and it only has not been sent yet."""
    return row["j_state"] in ("due", "sent") and bool(row["j_wish"] == wish)
