"""What an audit compares, window by window: desired, mirror and the records that were read."""

from __future__ import annotations

from functools import cached_property

from syncd.desired import Desired


class AuditRows:
    """The compiled comparison of one destination. Rows: as `Compare.by_keys`, with the whole of
    desired and mirror, `j_doubtful`, and `records` as JSON (null: none was met)."""

    def __init__(self, desired: Desired) -> None:
        self.desired = desired

    @cached_property
    def by_window(self) -> str:
        """Contacts of the source from $1 to $2; $3: the run."""
        ids = "array(select d.contact_id from d)"
        return self._select(self.desired.by_window, ids, "select d.contact_id from d")

    @cached_property
    def outside(self) -> str:
        """Contacts of the mirror, $2, that do not belong any more; $1: those that are castable."""
        ids = "select u.contact_id from unnest($2::text[]) u (contact_id)"
        return self._select(self.desired.by_keys, "$2::text[]", ids)

    def _select(self, desired: str, ids: str, keys: str) -> str:
        fields = "".join(f", d.f{n}" for n in range(len(self.desired.fields)))
        me = self.desired.destination_id
        low, high = self.desired.cast("i.lo"), self.desired.cast("i.hi")
        key = self.desired.safe_cast("k.contact_id")
        return f"""
with d as materialized (
    select d.contact_id, d.email{fields}, d.lists, d.subscribed, d.fault, d.digest
      from ({desired}) d
), k as materialized ({keys})
select k.contact_id, d.contact_id is not null as wanted, d.email as raw_email,
       lower(d.email) as email{fields}, d.lists, d.subscribed, d.fault, d.digest,
       m.state as m_state, m.digest as m_digest, m.email as m_email, m.fields as m_fields,
       m.lists as m_lists, m.subscribed as m_subscribed, m.lacking as m_lacking,
       m.pushed_at as m_pushed_at,
       j.state as j_state, j.digest as j_digest, j.wish as j_wish, j.doubtful as j_doubtful,
       j.last_error as j_error,
       exists (select 1 from syncd.intent i
                where i.destination_id = {me} and {key} between {low} and {high}) as in_window,
       d.contact_id is null and exists (
           select 1 from syncd.erasure e
            where e.finished_at is null
              and (e.contact_id = k.contact_id or lower(btrim(e.email)) = m.email)) as erase,
       a.records
  from k
  full join d on d.contact_id = k.contact_id
  full join (
      select m.* from syncd.mirror m
       where m.destination_id = {me} and m.contact_id = any({ids})) m
    on m.contact_id = k.contact_id
  full join (
      select j.contact_id, j.state, j.digest, j.wish, j.doubtful, j.last_error
        from syncd.journal j
       where j.destination_id = {me} and j.contact_id = any({ids})) j
    on j.contact_id = k.contact_id
  full join (
      select a.contact_id,
             jsonb_agg(jsonb_build_object(
                 'list_key', a.list_key, 'email', a.email, 'subscribed', a.subscribed,
                 'lists', to_jsonb(a.lists), 'fields', a.fields, 'opted_out', a.opted_out,
                 'read_at', extract(epoch from a.read_at))
                 order by a.list_key, a.remote_id) as records
        from syncd.audited a
       where a.run_id = $3::bigint and a.contact_id = any({ids})
       group by a.contact_id) a
    on a.contact_id = k.contact_id"""
