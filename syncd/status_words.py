"""A destination's standing in words: why it is not in step and what to do; what to know besides."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from syncd.standing import Budget, Drift, Held, Standing, Status
from syncd.words import ago, count, listed, span

CREATES = "creates: "  # how `halted` begins where only creates are stopped
EXPIRES_SOON = 30  # days

DOES = {"remove": "removals", "change": "changes", "opt_out": "opt-outs"}


def reasons(one: Standing, name: str, now: datetime, served: bool) -> list[str]:
    """Why the destination is not (quite) in step, the gravest first, each with what to do."""
    return [
        *_opt_outs(one),
        *_stopped(one, name),
        *_decisions(one, name),
        *_work(one, name, now, served),
    ]


def _opt_outs(one: Standing) -> Iterator[str]:
    for said in one.lacking_what:
        if said.opt_out:
            yield (
                f"{count(said.contacts, 'opt-out')} could not be conveyed ({said.reason}): silence"
                f" them there by hand: contact {listed(list(said.ids))}"
            )


def _stopped(one: Standing, name: str) -> Iterator[str]:
    if one.halted is not None:
        what = "creates are halted" if one.halted.startswith(CREATES) else "halted"
        yield (
            f"{what}: {one.halted.removeprefix(CREATES)}. Mend it, then `syncd resume {name}`"
            " (a changed secret or setting resumes it too)"
        )
    if one.paused:
        yield f"paused: nothing is sent and no opt-outs are read; `syncd resume {name}`"


def _decisions(one: Standing, name: str) -> Iterator[str]:
    for plan in one.held:
        yield (
            f"plan {plan.id} is held, {_does(plan)}:"
            f" {plan.reason}. `{plan.approve}` or `{plan.discard}`"
        )
    if one.rejected:
        most = one.rejected_because[0].reason if one.rejected_because else "no reason given"
        yield (
            f"{count(one.rejected, 'contact')} rejected, most often: {most}."
            f" `syncd rejected {name}`; mend the data, or `syncd retry {name}`"
        )
    if stuck := one.lists.get("rejected", 0) + one.lists.get("asks", 0):
        yield f"{count(stuck, 'list')} refused or in question: `syncd rejected {name}`"


def _does(plan: Held) -> str:
    if plan.kind == "vanish":
        return f"{count(plan.rows, 'contact')} gone there"
    return count(plan.rows, DOES[plan.kind].removesuffix("s"))


def _work(one: Standing, name: str, now: datetime, served: bool) -> Iterator[str]:
    todo = "the daemon is at it" if served else f"no worker is alive: `syncd backfill {name}`"
    if one.paused or one.halted is not None:
        todo = "nothing happens before that is resumed"
    if one.pending:
        yield f"{_pending(one, now)}; {todo}"
    if lists := one.lists.get("due", 0) + one.lists.get("sent", 0):
        yield f"{count(lists, 'list')} to be made or changed there; {todo}"
    if not one.filled:
        yield f"never filled yet; {todo}"
    elif one.owes_full:
        yield f"a full pass is owed; {todo}"
    elif one.news:
        yield f"changes of the source have not been looked at yet; {todo}"


def _pending(one: Standing, now: datetime) -> str:
    text = f"{count(one.pending, 'change')} pending"
    if one.pending_since is not None:
        text += f" for {span((now - one.pending_since).total_seconds())}"
    if one.estimate_seconds is not None:
        text += f", about {span(max(1.0, one.estimate_seconds))} to go"
    if one.waiting_because:
        first = one.waiting_because[0]
        text += f" ({first.contacts:,} say: {first.reason})"
    return text


def notes(one: Standing, name: str, now: datetime, served: bool) -> list[str]:
    """What is worth knowing though nothing is wrong yet."""
    return [*_credential(one, name), *_lacking(one), *_idle(one, now, served)]


def _credential(one: Standing, name: str) -> Iterator[str]:
    secret = one.credential
    if secret.fault is not None:
        yield f"limits and expiry are unknown on this host: {secret.fault}"
    elif secret.days_left is not None and secret.days_left <= EXPIRES_SOON:
        yield (
            f"the credential {secret.name} {ends(secret.days_left)} ({secret.expires_on}):"
            f" {renew(secret.name, name)}"
        )


def ends(days: int) -> str:
    """When a credential ends that is good for so many days yet."""
    if days < 0:
        return f"expired {count(-days, 'day')} ago"
    return f"expires in {count(days, 'day')}"


def renew(secret: str, destination: str) -> str:
    """What to do about it."""
    return f"get a new one, then `syncd secret set {secret}` and `syncd check {destination}`"


def _lacking(one: Standing) -> Iterator[str]:
    for said in one.lacking_what:
        if not said.opt_out:
            yield f"{count(said.contacts, 'contact')} lacking there: {said.reason}"


def _idle(one: Standing, now: datetime, served: bool) -> Iterator[str]:
    if served and one.read_at is not None and (now - one.read_at).total_seconds() > 86_400:
        yield f"opt-outs were last read {ago(one.read_at, now)}: `syncd scan`"


# ── For eyes ────────────────────────────────────────────────────────────────────────────────


def headline(one: Standing) -> str:
    """In a few words."""
    if one.in_step:
        return "in step" if not one.why else "in step, with exceptions"
    if one.halted is not None and not one.halted.startswith(CREATES):
        return "halted"
    return "paused" if one.paused else "not in step"


def lines(one: Standing, now: datetime) -> Iterator[tuple[str, str]]:
    """The block under a destination's name: a label and a text each."""
    for n, why in enumerate(one.why):
        yield ("why" if n == 0 else "", why)
    for n, note in enumerate(one.notes):
        yield ("note" if n == 0 else "", note)
    yield "here", f"{count(one.here, 'contact')}, as last acknowledged; source {one.source}"
    for n, lane in enumerate(one.lanes):
        age = "" if lane.since is None else f", oldest {ago(lane.since, now)}"
        text = f"{lane.name}: {lane.due:,} due, {lane.sent:,} in flight{age}"
        yield ("pending" if n == 0 else "", text)
    if one.doubtful:
        yield "doubtful", f"{count(one.doubtful, 'contact')} with a lost answer: looked up first"
    yield from _history(one, now)
    for n, budget in enumerate(one.meters):
        yield ("limits" if n == 0 else "", _limits(budget))


def _history(one: Standing, now: datetime) -> Iterator[tuple[str, str]]:
    for job in one.running:
        since = ago(job["started_at"], now)
        yield (
            "running",
            f"{job['kind']} pass, begun {since} by worker {job['worker']}@{job['host']}",
        )
    full = "full pass never"
    if one.full_pass is not None:
        full = f"full pass {ago(one.full_pass['finished_at'], now)}"
        if one.full_pass["error"]:
            full += f" ({one.full_pass['error']})"
    read = f"opt-outs read {ago(one.read_at, now)}"
    planned = "" if one.planned_at is None else f"; changes planned {ago(one.planned_at, now)}"
    yield "last", f"{read}{planned}; {full}"
    if one.drift is not None:
        yield "scanned", _drift(one.drift, now)
    if one.lists:
        yield "lists", ", ".join(f"{n} {state}" for state, n in one.lists.items())


def _drift(one: Drift, now: datetime) -> str:
    """What was read there last, and how it differs from what we believe."""
    parts = [f"{one.seen:,} records there, {ago(one.since, now)}"]
    told = (
        (one.extra, "not ours"),
        (one.stray, "ours, but not put there by us"),
        (one.missing, "of ours missing"),
        (one.address_differs, "under another address"),
    )
    return ", ".join([*parts, *(f"{n:,} {what}" for n, what in told if n)])


def _limits(one: Budget) -> str:
    parts = [f"{one.per_second:g} a second"] if one.per_second is not None else []
    parts += [f"{one.in_flight} in flight"] if one.in_flight is not None else []
    if one.left_today is not None:
        parts.append(f"{one.left_today:,} of {one.per_day:,} left today (UTC)")
    if one.not_before is not None:
        parts.append(f"held off until {one.not_before:%H:%M:%S} UTC, as the provider asked")
    return f"{one.meter}: {', '.join(parts) or 'no limit'}"


def shared(status: Status) -> Iterator[str]:
    """What concerns all destinations."""
    for worker in status.workers:
        up = span((status.at - worker["started_at"]).total_seconds())
        yield f"worker {worker['id']}: {worker['host']}, process {worker['pid']}, up {up}"
    if not status.workers:
        yield "no worker is alive: changes from now on wait for `syncd run`"
    for request in status.erasures:
        yield from request.says
    for held in status.open_transactions:
        name = "prepared transaction" if held["kind"] == "prepared" else "process"
        yield (
            f"a transaction of {held['who']} has been open for"
            f" {span((status.at - held['since']).total_seconds())} ({name} {held['name']} in"
            f" {held['database']}, {held['application'] or held['state']}): nothing is lost, but"
            " every pass reads back to it; end it if it was forgotten"
        )
