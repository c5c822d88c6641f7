"""Desired against mirror: the statements that let only what differs come out.

Mirror and journal are reached by an array of ids and joined by `full join`, which no planner can
turn into a scan of a destination's whole mirror, nor into a loop over all pairs, however stale its
statistics (races 30): a full join is hashed or merged. No row is added by it, for what is fetched
are rows of those ids only. What is mostly empty (erasure, intent) is asked for once a statement.
"""

from __future__ import annotations

from functools import cached_property

from syncd.classify import FRESH_LANE
from syncd.desired import Desired, Field, literal

SCALARS = frozenset(("bool", "int2", "int4", "int8", "float4", "float8", "numeric"))
"""Column types that travel as what they are; every other one travels as text."""

_MIRROR = """
  full join (
      select m.contact_id, m.digest, m.state, m.email, m.subscribed{more}
        from syncd.mirror m
       where m.destination_id = {destination} and m.contact_id = any({ids})) m
    on m.contact_id = k.contact_id"""
_IDS = "$2::text[]"
_PLAIN = """k.wanted and k.fault is null and k.m_state = 'here' and k.m_digest is not null
           and k.email = k.m_email and (k.subscribed or not k.m_subscribed) and k.j_state is null
           and not k.in_window and not k.crowded"""
"""What `classify` takes for a change that nothing else is to be done about."""
_JOURNAL = """
  full join (
      select j.contact_id, j.state, j.digest, j.wish
        from syncd.journal j
       where j.destination_id = {destination} and j.contact_id = any({ids})) j
    on j.contact_id = k.contact_id"""


class Compare:
    """The compiled comparisons of one destination."""

    def __init__(self, desired: Desired, crowds: bool = False) -> None:
        """crowds: two contacts may be there under one address (their key is ours): whoever left
        and comes back finds another one there, and neither has moved."""
        self.desired = desired
        self.crowds = crowds
        self.is_grown = False  # the mirror is so large that plans may be kept

    def _mirror(self, ids: str, more: str = "") -> str:
        return _MIRROR.format(destination=self.desired.destination_id, ids=ids, more=more)

    def _journal(self, ids: str) -> str:
        return _JOURNAL.format(destination=self.desired.destination_id, ids=ids)

    @cached_property
    def _in_window(self) -> str:
        """Whether k.contact_id lies in a window that a full pass has in flight."""
        key = self.desired.safe_cast("k.contact_id")
        low, high = self.desired.cast("i.lo"), self.desired.cast("i.hi")
        mine = f"from syncd.intent i where i.destination_id = {self.desired.destination_id}"
        return f"""case when (select exists (select 1 {mine}))
           then exists (select 1 {mine} and {key} between {low} and {high})
           else false end"""

    def _erase(self, email: str) -> str:
        """Whether k.contact_id, or who has its address there, is being erased, and the destination
        is still to be told."""
        return f"""case when (select exists (select 1 from syncd.erasing))
           then exists (select 1 from syncd.erasing e
                         where not {self.desired.destination_id} = any(e.done)
                           and ((e.contact_id = k.contact_id
                                 and e.source = {literal(self.desired.source.name)})
                                or e.email = {email} or 'erasure ' || e.id = k.contact_id))
           else false end"""

    def _erase_email(self, email: str) -> str:
        """By which address it is erased, beside its id: its own, unless another keeps that."""
        mine = f"e.contact_id = k.contact_id and e.source = {literal(self.desired.source.name)}"
        return f"""case when (select exists (select 1 from syncd.erasing)) then coalesce(
               (select e.email from syncd.erasing e
                 where e.email = {email} or 'erasure ' || e.id = k.contact_id limit 1),
               (select x.email
                  from syncd.erasing e
                  join syncd.erasing x on x.erasure_id = e.erasure_id and x.email is not null
                 where {mine} order by x.id limit 1)) end"""

    @cached_property
    def by_keys(self) -> str:
        """What a keyed pass looks at: $1 castable ids, $2 all ids, $3 whether to force.

        Rows: contact_id, wanted (is desired), digest, fault, email, subscribed, m_*, j_*,
        in_window, crowded (not there any more, and somebody else has its address); contacts that
        are in step and have no journal row do not come out. Who is gone is never in step, also
        where what the provider has is not known (no digest on either side).
        """
        whose, which = (
            ("<> 'here'", "") if self.crowds else ("= 'absent'", " and o.state <> 'absent'")
        )
        # `offset 0`: for each, by the index; never hashed for all of them
        crowded = f"""m.state {whose} and exists (
           select 1 from syncd.mirror o
            where o.destination_id = {self.desired.destination_id} and o.email = m.email{which}
              and o.contact_id <> k.contact_id offset 0)"""
        return f"""
with d as materialized (
    select d.contact_id, d.email, d.subscribed, d.fault, d.digest from ({self.desired.by_keys}) d)
select k.contact_id, d.contact_id is not null as wanted, d.digest, d.fault,
       lower(d.email) as email, d.subscribed, {self._states}, w.in_window,
       d.contact_id is null and {self._erase("m.email")} as erase, {crowded} as crowded
  from unnest($2::text[]) k (contact_id)
  full join d on d.contact_id = k.contact_id {self._mirror(_IDS)} {self._journal(_IDS)}
 cross join lateral (select {self._in_window} as in_window offset 0) w
 where m.digest is distinct from d.digest or m.state is distinct from 'here'
    or d.contact_id is null or j.state is not null or w.in_window or $3::boolean"""

    @cached_property
    def direct(self) -> str:
        """As `by_keys`, which journals what it finds where that is changes of data and nothing
        else: nothing comes out then but how many were `written`.

        $4 and $5: what the guard lets pass whatever the number there, and percent of those.
        UniqueViolationError where somebody got a journal row since this statement began: told apart
        row by row, by ON CONFLICT, it would cost a quarter more.
        """
        destination = self.desired.destination_id
        return f"""
with k as materialized ({self.by_keys}
), room as materialized (
    select p.n, r.passes
      from (select count(*) as n from k having coalesce(bool_and({_PLAIN}), false)) p
     cross join lateral syncd.take_room({destination}, 'change', p.n, $4::int, $5::real) r
), written as (
    insert into syncd.journal (destination_id, contact_id, wish, lane, state, digest)
    select {destination}, k.contact_id, 'upsert', {FRESH_LANE}, 'due', k.digest
      from k
     where (select r.passes from room r)
     order by k.contact_id
)
select k.*, (select r.n from room r) as written
  from (select 1) one
  left join k on (select r.passes from room r) is not true"""

    _states = """m.state as m_state, m.digest as m_digest, m.email as m_email,
       m.subscribed as m_subscribed, j.state as j_state, j.digest as j_digest, j.wish as j_wish"""

    @cached_property
    def by_window(self) -> str:
        """What a full pass looks at: ids from $1 to $2, $3 whether to force.

        Rows as `by_keys`, with the whole desired contact and `holder`, the other contact (if any)
        whose mirror row, request in flight, or lost try, has the wanted address. `matched` counts
        the window's contacts that the mirror knows as here; it stands in every row, and in one
        whose contact_id is null where nothing differs.
        """
        return self._window("false", "")

    @cached_property
    def staging(self) -> str:
        """As `by_window`; whoever is new there (`is_new`) is staged under claim $4.

        New: nothing but a create is to be done, wanted, mailable, its address free, and no older no
        to be gone past. $5: whether a contact must be in a list; $6: what `remote` calls the value
        of the key column, or null.
        """
        pairs = [(literal(f.name), self._stored(n, f)) for n, f in enumerate(self.desired.fields)]
        if pairs and all(map(self._is_text, self.desired.fields)):
            names, values = (",".join(column) for column in zip(*pairs, strict=True))
            fields = f"jsonb_object(array[{names}]::text[], array[{values}]::text[])"
        else:
            fields = f"jsonb_build_object({', '.join(f'{n}, {v}' for n, v in pairs)})"
        is_new = """k.fault is null and k.subscribed and coalesce(k.m_state, 'absent') = 'absent'
           and k.m_digest is distinct from k.digest and k.j_state is null
           and not coalesce(k.moved_to in (select t.email from taken t), false)
           and (not $5::boolean or k.ids <> '{}') and ($6::text is null or k.remote_key <> '')
           and not k.refused"""
        stage = f""", staged as (
    insert into syncd.staged
           (destination_id, claim, contact_id, email, fields, lists, remote, digest)
    select {self.desired.destination_id}, $4::bigint, k.contact_id, k.address, {fields}, k.lists,
           case when $6::text is not null then jsonb_build_object($6::text, k.remote_key) end,
           k.digest
      from differs k where {is_new}
)"""
        return self._window(is_new, stage, self.desired.was_refused("k.contact_id", "k.address"))

    def _is_text(self, field: Field) -> bool:
        kind = self.desired.source.contact.columns[field.column].type
        return not field.is_json and kind not in SCALARS

    @staticmethod
    def _stored(number: int, field: Field) -> str:
        """A field as `mirror.fields` keeps it: nested data as text, as they travel."""
        if not field.is_json:
            return f"k.f{number}"
        value = f"k.f{number}::jsonb"
        nested = f"jsonb_typeof({value}) in ('object', 'array')"
        return f"case when {nested} then to_jsonb(k.f{number}) else {value} end"

    def _window(self, is_new: str, stage: str, refused: str = "false") -> str:
        fields = "".join(f", k.f{n}" for n in range(len(self.desired.fields)))
        destination = self.desired.destination_id
        own = fields.replace("k.", "d.")
        ids = "array(select d.contact_id from d)"
        moved = "array(select k.moved_to from differs k where k.moved_to is not null)::text[]"
        return f"""
with d as materialized (
    select d.contact_id, d.email{own}, d.ids, d.list_names, d.subscribed, d.remote_key, d.fault,
           d.digest
      from ({self.desired.by_window}) d
), m as materialized (
    select m.contact_id, m.state as m_state, m.digest as m_digest, m.email as m_email,
           m.subscribed as m_subscribed
      from syncd.mirror m
     where m.destination_id = {destination} and m.contact_id = any({ids})
), differs as materialized (
    select k.*, k.ids::text[] as lists,
           case when k.address is distinct from k.m_email or k.m_state = 'absent'
                then k.address end as moved_to,
           {refused} as refused
      from (
        select k.*, lower(k.email) as address, m.m_state, m.m_digest, m.m_email, m.m_subscribed,
               j.state as j_state, j.digest as j_digest, j.wish as j_wish
          from d k full join m on m.contact_id = k.contact_id {self._journal(ids)}
         where m.m_digest is distinct from k.digest or m.m_state not in ('here', 'absent')
            or j.state is not null or $3::boolean
        offset 0) k
), taken as materialized (
    select t.email, min(t.contact_id) as holder
      from (select h.email, h.contact_id from syncd.mirror h
             where h.destination_id = {destination} and h.email = any({moved})
               and h.state <> 'absent'
            union all
            select f.holds, f.contact_id from syncd.journal f
             where f.destination_id = {destination} and f.state = 'sent'
               and f.holds = any({moved})
            union all
            select f.email, f.contact_id from syncd.journal f
             where (select exists (select 1 {self._doubtful})) and f.destination_id = {destination}
               and f.doubtful and f.email = any({moved})) t
     group by 1
){stage}
select k.contact_id, k.email as raw_email, k.address as email{fields}, k.lists,
       k.subscribed, k.list_names, k.remote_key, k.fault, k.digest, true as wanted, k.m_state,
       k.m_digest, k.m_email, k.m_subscribed, k.j_state, k.j_digest, k.j_wish, false as in_window,
       t.holder, {is_new} as is_new,
       (select count(*) from m where m.m_state in ('here', 'adopted')) as matched,
       (select count(*) from d) as total
  from (select 1) one
  left join (differs k full join taken t on t.email = k.moved_to) on true"""

    @cached_property
    def for_claim(self) -> str:
        """What a claim reads after its lock: $1 castable ids, $2 all ids, and of each in $3 the
        address that a doubtful try of it was sent under (null: none).

        `erase_email`: the address by which somebody is erased; `buries`: whether anybody ever was.
        `was_refused`: a no is known of it, or of its address, that consent has overcome perhaps.
        `arrives`: it is to be where it is not: at another address, or there at all.
        `in_flight` and `tried_in_flight`: who has a request on its way about an address of these,
        the latter about the one that was tried, or is to be erased.
        `in_doubt_there`: who may have been left by a lost try where somebody is to be erased: it
        would be erased for a stranger. Of two who are to go neither waits for the other.
        `leaving`: who has the record there where somebody is to be erased, and is about to get
        another address: it would be erased for a stranger, too.
        `in_doubt`: who may have been left by a lost try where this contact is to be put; of two
        that are in each other's way one goes first, unless the other is on its way already.
        """
        fields = "".join(f", d.f{n}" for n in range(len(self.desired.fields)))
        destination = self.desired.destination_id
        more = ", m.fields, m.lists, m.remote, m.pushed_at"
        return f"""
with d as materialized ({self.desired.by_keys}),
k as materialized (
    select k.contact_id, k.tried, d.contact_id is not null as wanted, d.email as raw_email,
           lower(d.email) as email{fields}, d.lists, d.list_names, d.remote_key, d.subscribed,
           d.fault, d.digest, m.state as m_state, m.digest as m_digest, m.email as m_email,
           m.subscribed as m_subscribed, m.fields as m_fields, m.lists as m_lists,
           m.remote as m_remote, m.pushed_at as m_pushed_at,
           lower(d.email) is distinct from m.email or m.state = 'absent' as arrives,
           {self._erase_email("m.email")} as erase_email
      from unnest($2::text[], $3::text[]) k (contact_id, tried)
      full join d on d.contact_id = k.contact_id {self._mirror(_IDS, more)}
), flights as materialized ({self._flights})
select k.contact_id, k.wanted, k.raw_email, k.email{fields.replace("d.", "k.")}, k.lists,
       k.list_names, k.remote_key, k.subscribed, k.fault, k.digest, k.m_state, k.m_digest,
       k.m_email, k.m_subscribed, k.m_fields, k.m_lists, k.m_remote, k.m_pushed_at,
       {self._in_window} as in_window,
       k.wanted and {self.desired.was_refused("k.contact_id", "k.email")} as was_refused,
       case when k.arrives then (
           select h.contact_id || case when h.state = 'here' then '' else ' (' || h.state || ')' end
             from syncd.mirror h
            where h.destination_id = {destination} and h.email = k.email
              and h.state <> 'absent' and h.contact_id <> k.contact_id limit 1) end as holder,
       (select f.contact_id from flights f
         where f.address in (case when k.m_state <> 'absent' then k.m_email end,
                             case when k.arrives then k.email end)
           and f.contact_id <> k.contact_id and (f.by_request or k.arrives)
         order by f.by_request desc limit 1) as in_flight,
       case when k.tried is not null or k.erase_email is not null then (
           select f.contact_id from flights f
            where f.by_request and f.address in (k.tried, k.erase_email)
              and f.contact_id <> k.contact_id
            limit 1) end as tried_in_flight,
       case when k.erase_email is not null then (
           select j.contact_id {self._doubtful} and j.email = k.erase_email
              and j.wish = 'upsert'
              and j.contact_id <> k.contact_id and j.state in ('due', 'sent')
            limit 1) end as in_doubt_there,
       case when k.erase_email is not null and {str(self.crowds).lower()} then (
           select h.contact_id from syncd.mirror h
             join syncd.journal j
               on j.destination_id = h.destination_id and j.contact_id = h.contact_id
            where h.destination_id = {destination} and h.email = k.erase_email
              and h.contact_id <> k.contact_id and h.state in ('here', 'adopted')
              and j.wish = 'upsert' and j.state in ('due', 'sent', 'held')
            limit 1) end as leaving,
       case when (select exists (select 1 {self._doubtful})) and k.arrives then (
           select j.contact_id {self._doubtful} and j.email = k.email
              and j.contact_id <> k.contact_id and j.state in ('due', 'sent')
              and (k.tried is null or j.contact_id < k.contact_id
                   or (j.state = 'sent' and j.contact_id <> all($2::text[])))
            limit 1) end as in_doubt,
       k.arrives and exists (
           select 1 from syncd.intent i
            where i.destination_id = {destination}
              and i.addresses && array[k.email, k.m_email]) as in_flight_window,
       case when not k.wanted then (
           select h.contact_id from syncd.mirror h
            where h.destination_id = {destination} and h.contact_id <> k.contact_id
              and h.state in ('here', 'adopted')
              and (k.m_remote is null or h.remote = k.m_remote)
              and h.email = coalesce(k.m_email, (
                  select f.email from syncd.journal f
                   where f.destination_id = {destination} and f.contact_id = k.contact_id))
            limit 1) end as successor,
       case when k.tried is not null then (
           select h.contact_id from syncd.mirror h
            where h.destination_id = {destination} and h.email = k.tried
              and h.contact_id <> k.contact_id and h.state in ('here', 'adopted')
            limit 1) end as holder_of_tried,
       array(select x.list_key
               from syncd.missing x
               join syncd.scan s on s.id = x.scan_id
              where x.destination_id = {destination} and x.contact_id = k.contact_id
                and x.scans >= 2 and (k.m_pushed_at is null or s.begun_at > k.m_pushed_at))
           as missed,
       {self._erase("k.m_email")} as erase, k.erase_email,
       (select exists (select 1 from syncd.tombstone)) as buries
  from k"""

    @property
    def _doubtful(self) -> str:
        """Journal rows j of whom a lost try may have left something there; mostly none."""
        return f"""from syncd.journal j
            where j.destination_id = {self.desired.destination_id} and j.doubtful"""

    @property
    def _flights(self) -> str:
        """Who has a request on its way about an address of `k`, or (not `by_request`) holds such
        an address by the mirror and has any request on its way. Asked for once a statement, by
        arrays: looked for anew for every contact they cost the square of what is in flight.
        """
        destination = self.desired.destination_id
        addresses = """array(select k.email from k union select k.m_email from k
                             union select k.tried from k
                             union select k.erase_email from k)"""
        return f"""
    select f.contact_id, f.holds as address, true as by_request
      from syncd.journal f
     where f.destination_id = {destination} and f.state = 'sent' and f.holds = any({addresses})
    union all
    select f.contact_id, h.email, false
      from (select h.contact_id, h.email from syncd.mirror h
             where h.destination_id = {destination} and h.email = any({addresses})
               and h.state <> 'absent' offset 0) h
      full join (
            select j.contact_id, j.state, j.holds from syncd.journal j
             where j.destination_id = {destination} and j.contact_id = any(array(
                       select o.contact_id from syncd.mirror o
                        where o.destination_id = {destination} and o.email = any({addresses})))
            offset 0) f
        on f.contact_id = h.contact_id
     where f.state = 'sent' and f.holds is not null"""
