"""One contact at one destination in words: does it get mail, why, and what is on its way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from syncd.control import Destination
from syncd.words import count, listed, moment, span

Row = Mapping[str, Any]


class Case(NamedTuple):
    """What is known of a contact there. contact: of the source; desired: after every rule."""

    d: Destination
    contact_id: str
    contact: Row | None
    desired: Row | None
    mirror: Row | None
    journal: Row | None
    opt_outs: Sequence[Row]
    erasing: bool
    erasures: Sequence[Row]  # requests about the person, those that are finished too
    buried: str | None  # why it is sent nowhere, where it was erased before
    sharer: Row | None
    lists: Mapping[str, str]  # the contact's lists: id → name
    names: Mapping[int, str]  # the destinations of the source


def sentences(case: Case, now: datetime) -> tuple[bool, list[str]]:
    """Whether the person gets mail there, as far as syncd knows; and why."""
    wanted = case.desired is not None and case.desired["subscribed"] and not case.desired["fault"]
    wanted = wanted and case.buried is None
    gets = _gets(case)
    if gets:
        first = "gets mail" if wanted else "may still get mail until the change below arrives"
    else:
        first = "does not get mail yet" if wanted else "gets no mail"
    return gets, [
        f"contact {case.contact_id} {first} at {case.d.name}.",
        *_source(case, bool(wanted)),
        *_opt_outs(case),
        *_there(case),
        *_on_its_way(case, now),
    ]


def _gets(case: Case) -> bool:
    """The last acknowledged word, less a no that the provider itself told us."""
    mirror = case.mirror
    if mirror is None or mirror["state"] not in ("here", "adopted") or not mirror["subscribed"]:
        return False
    return not any(
        o["destination_id"] == case.d.id and not o["lifted_at"] and o["list_id"] is None
        for o in case.opt_outs
        if not _outdone(o, case)
    )


# ── The source, and the rules ───────────────────────────────────────────────────────────────


def _source(case: Case, wanted: bool) -> Iterator[str]:
    if case.erasing:
        yield "An erasure was asked for: the person is forgotten there, and mailed no more."
    elif case.buried is not None and case.contact is not None:
        yield f"It {case.buried}."
    elif case.contact is None:
        yield "The source does not have the contact (any more)."
    elif case.desired is None:
        chosen = listed(list(case.d.lists or ()))
        yield f"It is in none of the lists that go there ({chosen}), so it does not belong there."
    elif case.desired["fault"]:
        yield f"It cannot be sent: {case.desired['fault']}."
    elif wanted:
        lists = listed([case.lists.get(one, one) for one in case.desired["lists"]], 10)
        yield f"The source wants it mailed, in {'lists ' + lists if lists else 'no list'}."
    elif case.contact.get("subscribed", True) is not True:
        yield "The source says that it is not subscribed."
    elif case.sharer is not None and not case.sharer["subscribed"]:
        yield "Another contact with the same address said no, and that counts for both."


def _opt_outs(case: Case) -> Iterator[str]:
    for one in case.opt_outs:
        where = case.names.get(one["destination_id"], "a former destination")
        when = moment(_time(one["occurred_at"] or one["observed_at"]))
        what = "" if one["list_id"] is None else f" of list {one['list_id']}"
        said = f"{one['kind'].capitalize()}{what} at {where}, {when}"
        if one["lifted_at"]:
            yield f"{said}; lifted {moment(_time(one['lifted_at']))} by {one['lifted_by']}."
        elif _outdone(one, case):
            yield f"{said}; newer consent ({moment(_consent(case))}) outdoes it."
        else:
            yield f"{said}; no newer consent, so it holds. {_how_to_lift(one, case)}"


def _how_to_lift(one: Row, case: Case) -> str:
    email = one["email"] or (case.contact or {}).get("email") or "EMAIL"
    of_list = "" if one["list_id"] is None else f" --list {one['list_id']}"
    return f"If it is wrong: `syncd lift {email}{of_list} --reason …`."


def _outdone(one: Row, case: Case) -> bool:
    consent, at = _consent(case), _time(one["occurred_at"] or one["observed_at"])
    return consent is not None and at is not None and consent > at


def _consent(case: Case) -> datetime | None:
    """Consent as the rule takes it: what is dated in the future does not count."""
    at = _time((case.contact or {}).get("consented_at"))
    return at if at is None or at <= datetime.now(at.tzinfo) else None


def _time(text: Any) -> datetime | None:
    if text is None:
        return None
    at = datetime.fromisoformat(str(text))
    return at.astimezone() if at.tzinfo is None else at


# ── There, and on its way ───────────────────────────────────────────────────────────────────


def _there(case: Case) -> Iterator[str]:
    mirror = case.mirror
    if mirror is None:
        yield _without_record(case)
        return
    when = moment(_time(mirror["pushed_at"]))
    match mirror["state"]:
        case "withdrawn":
            yield f"It was withdrawn there, {when}."
        case "absent":
            yield f"It is rightly not there, as of {when}."
        case "adopted":
            yield f"It was found there, {when}, and not written yet."
        case _:
            flag = "mailable" if mirror["subscribed"] else "silenced"
            known = "" if mirror["digest"] is not None else "; to be confirmed by the next write"
            yield f"It is there, {flag}, as acknowledged {when}{known}."
    for one in mirror["lacking"]:
        yield f"Not conveyed there: {one}."


def _without_record(case: Case) -> str:
    """An erasure takes our record of it away, too: then that there is none says nothing."""
    purged = [one for one in case.erasures if one["purged_at"] is not None]
    if not purged:
        return f"{case.d.name} was never given it."
    name = case.d.name
    proofs = [one["proof"].get(name, {}) for one in purged]
    told = [proof["sent_at"] for proof in proofs if "sent_at" in proof]
    if not told:
        return f"What {name} was given before the erasure is not kept here any more."
    return (
        f"The erasure was conveyed to {name}, {moment(_time(max(told)))}; what it was given before"
        " is not kept here any more."
    )


def _on_its_way(case: Case, now: datetime) -> Iterator[str]:
    if case.journal is not None:
        yield _journal(case.journal, case.d, now)
    elif _differs(case):
        yield "It is not in step, and no change is planned yet: the next pass finds it."
    if case.d.halted is not None:
        yield f"{case.d.name} is halted: {case.d.halted}."
    elif case.d.paused:
        yield f"{case.d.name} is paused: nothing is sent until `syncd resume {case.d.name}`."


def _differs(case: Case) -> bool:
    if case.desired is None:
        return case.mirror is not None and case.mirror["state"] in ("here", "adopted")
    return case.mirror is None or case.mirror["digest"] != case.desired["digest"]


def _journal(row: Row, d: Destination, now: datetime) -> str:
    what = "A removal" if row["wish"] == "remove" else "A change"
    since = moment(_time(row["planned_at"]))
    tries = f", {count(row['attempts'], 'attempt')} so far" if row["attempts"] else ""
    said = f"; last word: {row['last_error']}" if row["last_error"] else ""
    match row["state"]:
        case "rejected":
            again = f"`syncd retry {d.name} --contact {row['contact_id']}`"
            return f"It was refused: {row['last_error']}. Mend the data, or {again}."
        case "held":
            return (
                f"{what} is held in plan {row['plan_id']} since {since}: `syncd status {d.name}`."
            )
        case "sent":
            return f"{what} is in flight{tries}{said}."
        case _ if row.get("waits_for"):
            lists = listed(row["waits_for"])
            where = f"list {lists}" if lists else "the account"
            return f"{what} is pending since {since}, until {where} has been scanned for its id."
        case _:
            due = _time(row["due_at"])
            wait = (due - now).total_seconds() if due is not None else 0
            when = "now" if wait <= 0 else f"in {span(wait)}"
            return f"{what} is pending since {since}, due {when}{tries}{said}."
