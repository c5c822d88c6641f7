"""`desired`: what one destination should hold, compiled into one SELECT per destination.

Columns: contact_id, email, f0…fn (the mapped fields, in order), lists, subscribed (after the
consent rule), fault (why the contact cannot be sent, or null), digest; `ids` are the lists in the
source's own type, for whom text would cost too much. Design, section 5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import orjson

from syncd.addresses import SHARES
from syncd.errors import ConfigError
from syncd.source import PATTERNS, Column, KeyKind, Relation, Source, people

CONSENT_COLUMNS = ("subscribed", "consented_at")


def ident(name: str) -> str:
    """*name* as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """*text* as a string constant (escape form, so no setting of the server matters)."""
    escaped = text.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"


@dataclass(frozen=True, slots=True)
class Field:
    """A provider's field, and the source column (or key of a JSON column) that fills it."""

    name: str
    column: str
    key: str | None = None
    is_json: bool = False


@dataclass(frozen=True)
class Desired:
    """The compiled mapping of one destination. Text of SQL only; nothing is executed here."""

    destination_id: int
    source: Source
    fields: Sequence[Field]
    lists: Sequence[str] | None
    everyone: bool
    only_own_opt_outs: bool
    wire_options: Mapping[str, object]
    when_gone: str
    key_column: str | None = None  # identifies the contact there, in place of our id
    names_lists: bool = False  # names of lists are stored there, so they are part of the digest

    @cached_property
    def generation(self) -> str:
        """Changes with everything that changes what is sent; part of every digest."""
        said = {
            "fields": [[f.name, f.column, f.key] for f in self.fields],
            "lists": None if self.lists is None else sorted(self.lists),
            "everyone": self.everyone,
            "relations": [
                self.source.contact.name,
                self.source.list.name,
                self.source.membership.name,
            ],
            "when_gone": self.when_gone,
            "wire": self.wire_options,
            "key": self.key_column,
        }
        text = orjson.dumps(said, option=orjson.OPT_SORT_KEYS, default=str)
        return hashlib.sha256(text).hexdigest()[:16]

    @property
    def key(self) -> KeyKind:
        return self.source.key

    @property
    def selects(self) -> bool:
        """Whether a contact belongs only through a selected list."""
        return self.lists is not None and not self.everyone

    def cast(self, expression: str) -> str:
        """A text expression as a key of the source, in the source's order."""
        if self.key == "text":
            return f"(({expression})::text collate {self._collation(self.source.contact, 'id')})"
        return f"({expression})::{self.key}"

    def safe_cast(self, expression: str) -> str:
        """As `cast`; null where the text cannot be a key of this kind."""
        if self.key == "text":
            return self.cast(expression)
        pattern = literal(PATTERNS[self.key])
        return f"(case when {expression} ~ {pattern} then ({expression})::{self.key} end)"

    @staticmethod
    def _collation(relation: Relation, column: str) -> str:
        return relation.columns[column].collation or 'pg_catalog."default"'

    @cached_property
    def by_keys(self) -> str:
        """SELECT of the contacts whose ids are in $1::text[] (castable ones only)."""
        keys = f"any($1::text[]::{self.key}[])"
        return self._select(f"c.id = {keys}", f"m.contact_id = {keys}")

    @cached_property
    def by_window(self) -> str:
        """SELECT of the contacts from $1::text to $2::text, both included."""
        low, high = self.cast("$1::text"), self.cast("$2::text")
        membership = "m.contact_id"
        if self.key == "text":
            membership = f"({membership} collate {self._collation(self.source.contact, 'id')})"
        return self._select(
            f"c.id between {low} and {high}", f"{membership} between {low} and {high}"
        )

    @cached_property
    def everything(self) -> str:
        """SELECT of all contacts; for explaining one address, never for a pass."""
        return self._select("true", "true")

    @cached_property
    def window(self) -> str:
        """The next window after $1::text (null: from the start), of $2 ids: first, last, n.

        `order by w.id`, not `id`: that would be the output column, in the order of text.
        """
        after = f"where $1::text is null or c.id > {self.cast('$1::text')}"
        return f"""
with w as (select c.id from {self.source.contact.name} c {after} order by c.id limit $2)
select (select w.id::text from w order by w.id limit 1) as first,
       (select w.id::text from w order by w.id desc limit 1) as last,
       (select count(*) from w) as n"""

    @cached_property
    def list_names(self) -> str:
        """SELECT id, name of the lists that the destination is to have."""
        return f"""
select l.id::text as id, l.name::text as name from {self.source.list.name} l
 where l.name is not null and {self._selected("l.id")} order by 1"""

    @cached_property
    def count(self) -> str:
        """SELECT of about how many contacts belong; ids that occur twice count twice."""
        if not self.selects:
            return f"select count(*) from {self.source.contact.name}"
        return f"""
select count(distinct m.contact_id) from {self.source.membership.name} m
 where {self._selected("m.list_id")}"""

    @cached_property
    def memberships(self) -> str:
        """SELECT of about how many memberships belong (n), and how many contacts have any."""
        return f"""
select count(*) as n, count(distinct m.contact_id) as members from {self.source.membership.name} m
 where {self._selected("m.list_id")}"""

    @cached_property
    def members(self) -> str:
        """The next $3 contact ids of list $1::text after $2::text (null: from the start)."""
        column = "m.contact_id"
        after = f"({column})::{self.key} > ($2::text)::{self.key}"
        if self.key == "text":
            column = f"(m.contact_id collate {self._collation(self.source.contact, 'id')})"
            after = f"{column} > {self.cast('$2::text')}"
        return f"""
select q.id::text as contact_id
  from (select distinct {column} as id from {self.source.membership.name} m
         where m.list_id = ($1::text)::{self.source.list_key}
           and ($2::text is null or {after})) q
 order by q.id
 limit $3::int"""

    @cached_property
    def lists_there(self) -> str:
        """SELECT of id: which of the selected lists the source has."""
        return f"""
select l.id::text as id from {self.source.list.name} l where {self._selected("l.id")}"""

    @cached_property
    def belonging(self) -> str:
        """SELECT of contact_id: which of $1::text[] (castable) still belong, erased ones not."""
        member = ""
        if self.selects:
            member = f"""
   and exists (select 1 from {self.source.membership.name} m
                where m.contact_id = c.id and {self._selected("m.list_id")})"""
        return f"""
select c.id::text collate "C" as contact_id, lower(btrim(c.email::text)) as email
  from {self.source.contact.name} c
 where c.id = any($1::text[]::{self.key}[]){member}
   and {self._not_erased("c.id::text", "c.email::text")}"""

    @cached_property
    def at_addresses(self) -> str:
        """SELECT contact_id, email, subscribed of who belongs and has an address of $1::text[].

        subscribed: whether it says yes, and has itself said no nowhere. A no that was said under
        the address is weighed where it is sent, against the consent of whom it is sent for.
        """
        return self._holders("lower(btrim(c.email::text)) = any($1::text[])")

    @cached_property
    def people(self) -> str:
        """SELECT of contact_id, email of the source: who has an id of $1, or an address of $2."""
        return people(self.source)

    @cached_property
    def shared_addresses(self) -> str:
        """As `at_addresses`, of every address that occurs more than once in the source."""
        contact = self.source.contact.name
        return f"""
with often as materialized (
    select hashtextextended(lower(btrim(c.email::text)), 0) as h from {contact} c
     where c.email is not null group by 1 having count(*) > 1)
{self._holders("hashtextextended(lower(btrim(c.email::text)), 0) in (select h from often)")}"""

    def _holders(self, condition: str) -> str:
        member = ""
        if self.selects:
            member = f"""
   and exists (select 1 from {self.source.membership.name} m
                where m.contact_id = c.id and {self._selected("m.list_id")})"""
        refused = self._has_not_refused('c.id::text collate "C"', self._consent())
        return f"""
select distinct c.id::text collate "C" as contact_id, lower(btrim(c.email::text)) as email,
       {self._subscribed()} and {self._if_any_refused(refused)} as subscribed
  from {self.source.contact.name} c
 where {condition} and btrim(c.email::text) <> ''{member}
   and {self._not_erased("c.id::text", "c.email::text")}"""

    def _subscribed(self) -> str:
        has = "subscribed" in self.source.contact.columns
        return "coalesce(c.subscribed, false)" if has else "true"

    def _consent(self) -> str:
        if "consented_at" not in self.source.contact.columns:
            return "null::timestamptz"
        at = "c.consented_at::timestamptz"
        # Consent of the future does not count. Not `now()`: a pass may have waited since it began.
        # A second, because nothing would look at it again when its time has come.
        return f"(case when {at} <= statement_timestamp() + interval '1 s' then {at} end)"

    def _selected(self, column: str) -> str:
        if self.lists is None:
            return "true"
        kind = self.source.list_key
        ids = ",".join(literal(one) for one in sorted(self.lists))
        return f"{column} = any(array[{ids}]::text[]::{kind}[])"

    def _not_erased(self, contact_id: str, email: str) -> str:
        """Costs next to nothing while nobody is being erased: then neither table nor row is looked
        at.

        So with every table here that is mostly empty: `case when (select exists …)` is decided once
        a statement, where a join would be computed for every row.
        """
        return f"""case when (select exists (select 1 from syncd.erasing))
            then not exists (select 1 from syncd.erasing e
                              where e.contact_id = {contact_id}
                                and e.source = {literal(self.source.name)})
             and not coalesce(lower(btrim({email})) in (
                     select e.email from syncd.erasing e where e.email is not null), false)
            else true end"""

    def _scope(self) -> str:
        own = f"o.destination_id = {self.destination_id}"
        if self.only_own_opt_outs:
            return own
        peers = f"select d.id from syncd.destination d where d.source = {literal(self.source.name)}"
        gone = f"o.of_source = {literal(self.source.name)}"  # its destination was removed
        return f"({own} or (o.kind <> 'vanished' and (o.destination_id in ({peers}) or {gone})))"

    def _expression(self, field: Field) -> str:
        column = self.source.contact.columns[field.column]
        text = f"c.{ident(column.name)}"
        if field.key is not None:
            return f"({text}::jsonb -> {literal(field.key)})::text"
        return rendered(text, column)

    def _copies(self) -> str:
        if self.source.contact.is_unique("id"):
            return "1"
        return "count(*) over (partition by c.id)"

    def _list_array(self) -> str:
        distinct = self.source.membership.is_unique("contact_id", "list_id")
        return f"array_agg({'' if distinct else 'distinct '}m.list_id order by m.list_id)"

    def _list_names(self) -> str:
        """The lists' names beside their ids, where the provider stores names."""
        if not self.names_lists:
            return "null::text[]"
        name = f"(select n.name::text from {self.source.list.name} n where n.id = u.id)"
        ordered = "unnest(q.ids) with ordinality u (id, n)"
        return f"array(select {name} from {ordered} order by u.n)"

    def _remote_key(self) -> str:
        return f"c.{ident(self.key_column)}::text" if self.key_column else "null::text"

    def _without_refused_lists(self) -> str:
        """`l.ids` less those the contact has left at this destination by its own will."""
        mine = f"o.destination_id = {self.destination_id} and o.lifted_at is null"
        return f"""case when (select exists (select 1 from syncd.opt_out o
                           where {mine} and o.list_id is not null))
             then array(select u.id from unnest(l.ids) with ordinality u (id, n)
                         where not exists (
                             select 1 from syncd.opt_out o
                              where {mine} and o.list_id = u.id::text
                                and (o.contact_id = k.contact_id or o.email = lower(k.email))
                                and coalesce(k.consent <= coalesce(o.occurred_at, o.observed_at),
                                             true))
                         order by u.n)
             else coalesce(l.ids, '{{}}') end"""

    def _select(self, contacts: str, members: str) -> str:
        mapped = "".join(f",\n           {self._expression(f)} as f{n}" for n, f in self._numbered)
        names = "".join(f", k.f{n}" for n, _ in self._numbered)
        outer = "".join(f", q.f{n}" for n, _ in self._numbered)
        contact, membership = self.source.contact, self.source.membership
        join = "join" if self.selects else "left join"
        distinct = "" if contact.is_unique("id") else "distinct on (c.id) "
        named = f", {self._list_names()}" if self.names_lists else ""
        duplicate = literal(f"its id occurs more than once in {contact.name}")
        return f"""
select q.contact_id, q.email{outer}, q.ids, q.ids::text[] as lists, q.subscribed, q.fault,
       q.remote_key, {self._list_names()} as list_names,
       md5(row({literal(self.generation)}, q.email{outer}, q.ids, q.subscribed,
               q.fault{named})::text)::uuid as digest
  from (
    select k.contact_id, k.email{names}, k.remote_key,
           {self._without_refused_lists()} as ids,
           k.yes and coalesce(s.subscribed, true) and {self._unopposed()} as subscribed,
           case when k.copies > 1 then {duplicate}
                when k.email is null or k.email = '' then 'has no e-mail address'
                when s.holder <> k.contact_id
                then {literal(SHARES)} || s.holder || ', which holds it here'
           end as fault
      from (
        select {distinct}c.id as key, c.id::text collate "C" as contact_id,
           btrim(c.email::text) as email, {self._subscribed()} as yes, {self._consent()} as consent,
           {self._copies()} as copies, {self._remote_key()} as remote_key{mapped}
          from {contact.name} c
         where {contacts}) k
      {join} (
        select m.contact_id, {self._list_array()} as ids
          from {membership.name} m
         where {members} and {self._selected("m.list_id")}
         group by m.contact_id) l on l.contact_id = k.key
      left join lateral (
        select s.holder, s.subscribed from syncd.sharer s
         where (select exists (select 1 from syncd.sharer any_one
                                where any_one.destination_id = {self.destination_id}))
           and s.destination_id = {self.destination_id} and s.contact_id = k.contact_id
           and s.email = lower(k.email) offset 0) s on true
     where {self._not_erased("k.contact_id", "k.email")}
    offset 0) q"""

    def _silent(self) -> str:
        """Which rows o of `opt_out` are open, and about all mail of this destination."""
        return f"o.lifted_at is null and {self._all_mail()}"

    def _all_mail(self) -> str:
        return f"o.list_id is null and {self._scope()}"

    def _unopposed(self) -> str:
        """Whether no open opt-out from all mail stands against the contact, or its address."""
        return self._if_any_refused(f"""not exists (
                     select 1 from syncd.opt_out o
                      where {self._silent()} and o.email = lower(k.email)
                        and {_not_before("k.consent")})
              and {self._has_not_refused("k.contact_id", "k.consent")}""")

    def _has_not_refused(self, contact_id: str, consent: str) -> str:
        """Whether no opt-out is the contact's own, whatever address it was said under."""
        return f"""not exists (
                     select 1 from syncd.opt_out o
                      where {self._silent()} and o.contact_id = {contact_id}
                        and o.kind in ('unsubscribed', 'complained') and {_not_before(consent)})"""

    def was_refused(self, contact_id: str, email: str) -> str:
        """Whether a no of the contact's, or of its address, is known, be it older than consent, or
        lifted by a person: a provider may have kept it, of whom it does not hold any more."""
        of = [f"o.email = {email}", f"o.contact_id = {contact_id}"]
        known = " or ".join(
            f"""exists (select 1 from syncd.opt_out o
                           where o.lifted_at is {lifted} and {self._all_mail()}
                             and o.kind <> 'vanished' and {one})"""
            for lifted in ("null", "not null")
            for one in of
        )
        any_no = f"select exists (select 1 from syncd.opt_out o where {self._all_mail()})"
        return f"case when ({any_no}) then {known} else false end"

    def _if_any_refused(self, condition: str) -> str:
        """*condition*, which holds anyhow while nobody at all has said no."""
        return f"""case when (select exists (select 1 from syncd.opt_out o where {self._silent()}))
             then {condition}
             else true end"""

    @property
    def _numbered(self) -> Sequence[tuple[int, Field]]:
        return list(enumerate(self.fields))


def _not_before(consent: str) -> str:
    """Whether the opt-out o is not older than that consent."""
    return f"coalesce({consent} <= coalesce(o.occurred_at, o.observed_at), true)"


def rendered(expression: str, column: Column) -> str:
    """A column as a value that travels: JSON scalars; dates as YYYY-MM-DD, other things as text."""
    match column.type:
        case "text" | "bool" | "int2" | "int4" | "int8" | "float4" | "float8":
            return expression
        case "numeric":
            e = expression  # what is no float8 would fail the whole pass
            fits = f"abs({e}) <= 1e308 or {e} in ('NaN', 'Infinity', '-Infinity')"
            return f"case when abs({e}) < 1e-307 then 0 when {fits} then {e}::float8 end"
        case "date":
            return f"to_char({expression}, 'YYYY-MM-DD')"
        case "timestamptz":
            return f"""to_char({expression} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')"""
        case "timestamp":
            return f"""to_char({expression}, 'YYYY-MM-DD"T"HH24:MI:SS')"""
        case _:
            return f"{expression}::text"


def mapping(
    contact: Relation, fields: Mapping[str, object] | None, defaults: Mapping[str, str]
) -> Sequence[Field]:
    """The fields to send; ConfigError naming every column that is not there.

    Without a mapping of the destination's own, the provider's documented one, as far as the
    source has the columns.
    """
    if fields is None:
        return [Field(name, c) for name, c in sorted(defaults.items()) if c in contact.columns]
    chosen: list[Field] = []
    faults: list[str] = []
    for name, said in sorted(fields.items()):
        try:
            chosen.append(_field(contact, name, said))
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(*faults)
    return chosen


def _field(contact: Relation, name: str, said: object) -> Field:
    if not isinstance(said, str) or "\0" in said or "\0" in name or not name:
        raise ConfigError(f"field {name!r}: a source column's name is expected, not {said!r}")
    if said in contact.columns:
        return Field(name, said)
    column, dot, key = said.partition(".")
    if dot and column in contact.columns:
        if contact.columns[column].type not in ("json", "jsonb"):
            raise ConfigError(f"field {name!r}: column {column!r} is not JSON, so has no {key!r}")
        return Field(name, column, key, is_json=True)
    there = ", ".join(contact.columns)
    raise ConfigError(f"field {name!r}: {contact.name} has no column {said!r}; it has: {there}")
