-- name: candidates
-- Contacts that two whole scans in a row have missed, of every list of which that can be said by
-- now; who was missed once in another list waits for the second scan of it. `suspect`: a list
-- that was read as empty, though several should be in it; $3: by a scan of the account.
with empty as materialized (
    select distinct on (s.list_key) s.list_key,
           (s.counts ->> 'seen')::bigint = 0 and (s.counts ->> 'expected')::bigint > 1 as suspect
      from syncd.scan s
     where s.destination_id = $1::int and s.feed = 'contacts' and s.finished_at is not null
       and s.error is null
     order by s.list_key, s.id desc
)
select x.contact_id, array_agg(x.list_key order by x.list_key) as gone,
       bool_or(coalesce(e.suspect, false)
               or ($3::boolean and x.list_key <> '' and not exists (
                       select 1 from syncd.seen n
                        where n.destination_id = x.destination_id and n.list_key = x.list_key
                          and n.scan_id = x.scan_id)
                   and exists (select 1 from syncd.missing o
                                where o.destination_id = x.destination_id
                                  and o.list_key = x.list_key and o.scan_id = x.scan_id
                                  and o.contact_id <> x.contact_id))) as suspect
  from syncd.missing x
  join syncd.mirror m
    on m.destination_id = x.destination_id and m.contact_id = x.contact_id
   and m.state in ('here', 'adopted') and m.subscribed
   and (x.list_key = '' or m.lists @> array[x.list_key]) and m.pushed_at < x.since
  left join empty e on e.list_key = x.list_key
 where x.destination_id = $1::int and x.scans >= 2 and x.plan_id is null
   and not exists (select 1 from syncd.list_mirror l
                    where l.destination_id = x.destination_id and l.list_id = x.list_key
                      and l.state = 'asks')
   and not exists (select 1 from syncd.missing o
                    where o.destination_id = x.destination_id and o.contact_id = x.contact_id
                      and o.scans < 2 and m.lists @> array[o.list_key])
   and not exists (select 1 from syncd.journal j
                    where j.destination_id = x.destination_id and j.contact_id = x.contact_id
                      and (j.state = 'sent' or (j.doubtful and j.waits_for is null)
                           or j.left_lists @> array[x.list_key]))
 group by x.contact_id
 order by x.contact_id
 limit $2::int;

-- name: leavers
-- Whom a scan of the account has met, and not in these lists; nothing of it is on its way.
select m.contact_id, m.email, m.fields, m.remote,
       array_agg(x.list_key order by x.list_key) as lists,
       array_agg(k.remote_id order by x.list_key) as remote_lists
  from syncd.missing x
  join syncd.mirror m
    on m.destination_id = x.destination_id and m.contact_id = x.contact_id
   and m.state = 'here' and m.subscribed and m.lists @> array[x.list_key]
   and m.pushed_at < x.since
  join syncd.list_mirror k
    on k.destination_id = x.destination_id and k.list_id = x.list_key
   and k.remote_id is not null and k.state <> 'asks'
 where x.destination_id = $1::int and x.list_key <> '' and x.scans = 1 and x.plan_id is null
 group by m.destination_id, m.contact_id
 order by m.contact_id
 limit $2::int;

-- name: any_left
select exists (select 1 from syncd.missing
                where destination_id = $1::int and list_key <> '' and scans = 1);

-- name: leave
-- A look-up says so, too ($2, $3); of whom it does not ($4), nothing is said any more. $5: so many
-- left that a person decides, of all of them.
with excused as (
    delete from syncd.missing x
     where x.destination_id = $1::int and x.list_key <> '' and x.scans = 1
       and x.contact_id = any($4::text[])
       and not exists (select 1 from unnest($2::text[], $3::text[]) u (contact_id, list_key)
                        where u.contact_id = x.contact_id and u.list_key = x.list_key)
)
update syncd.missing x set scans = 2
 where x.destination_id = $1::int and x.list_key <> '' and x.scans = 1
   and (($5::boolean and not x.contact_id = any($4::text[]))
        or exists (select 1 from unnest($2::text[], $3::text[]) u (contact_id, list_key)
                    where u.contact_id = x.contact_id and u.list_key = x.list_key));

-- name: hold
update syncd.missing set plan_id = $3::bigint
 where destination_id = $1::int and contact_id = any($2::text[]) and scans >= 2;

-- name: lock_journal
-- `busy`: something of it is in flight, or in a doubt that no scan has answered.
select j.contact_id, j.state = 'sent' or (j.doubtful and j.waits_for is null) as busy
  from syncd.journal j
 where j.destination_id = $1::int and j.contact_id = any($2::text[])
 order by j.contact_id
   for no key update;

-- name: lock_mirror
select m.contact_id, m.email, m.lists, m.fields, m.remote,
       array(select x.list_key from syncd.missing x
              where x.destination_id = m.destination_id and x.contact_id = m.contact_id
                and exists (select 1 from syncd.scan s
                             where s.id = x.scan_id and s.begun_at > m.pushed_at)
                and x.scans >= 2 and (x.list_key = '' or m.lists @> array[x.list_key])
                and m.pushed_at < x.since
                and not exists (select 1 from syncd.journal j
                                 where j.destination_id = m.destination_id
                                   and j.contact_id = m.contact_id
                                   and j.left_lists @> array[x.list_key])) as gone,
       exists (select 1 from syncd.missing x join syncd.scan s on s.id = x.scan_id
                where x.destination_id = m.destination_id and x.contact_id = m.contact_id
                  and x.list_key <> '' and s.list_key = '') as met
  from syncd.mirror m
 where m.destination_id = $1::int and m.contact_id = any($2::text[])
   and m.state in ('here', 'adopted') and m.subscribed
 order by m.contact_id
   for no key update of m;

-- name: free
-- Whatever they waited for is answered.
update syncd.journal j set waits_for = null, waits_since = null, due_at = now(), doubtful = false
 where j.destination_id = $1::int and j.contact_id = any($2::text[]) and j.state <> 'sent'
   and j.waits_for is not null;

-- name: leave_lists
update syncd.mirror m
   set lists = array(select l from unnest(m.lists) l where not l = any(u.gone::text[])),
       digest = null
  from unnest($2::text[], $3::text[]) u (contact_id, gone)
 where m.destination_id = $1::int and m.contact_id = u.contact_id;

-- name: note
insert into syncd.opt_out as o (destination_id, contact_id, email, list_id, kind, evidence)
select $1::int, u.contact_id, u.email, u.list_id, 'vanished', u.evidence::jsonb
  from unnest($2::text[], $3::text[], $4::text[], $5::text[])
       u (contact_id, email, list_id, evidence)
on conflict (destination_id, coalesce(email_hash, ''), coalesce(contact_id, ''),
             coalesce(list_id, ''), kind) where lifted_at is null
do nothing;

-- name: forget
delete from syncd.missing where destination_id = $1::int and contact_id = any($2::text[]);

-- name: drop_empty
-- All of a held plan's contacts have been met since: nobody need decide.
update syncd.plan p
   set state = 'discarded', decided_at = now(), decided_by = 'syncd: met again'
 where p.destination_id = $1::int and p.kind = 'vanish' and p.state = 'held'
   and not exists (select 1 from syncd.missing x where x.plan_id = p.id);

-- name: approved
-- A block of what a person has approved.
select x.destination_id, array_agg(distinct x.contact_id) as contacts
  from (select x.destination_id, x.contact_id from syncd.missing x
         where x.plan_id in (select p.id from syncd.plan p
                              where p.kind = 'vanish' and p.state = 'approved')
           and not exists (select 1 from syncd.journal j
                            where j.destination_id = x.destination_id
                              and j.contact_id = x.contact_id and j.state = 'sent')
         order by x.destination_id, x.contact_id
         limit 1000) x
 group by x.destination_id
 order by x.destination_id
 limit 1;

-- name: discard
-- Two more scans must miss them before the question is put again.
with gone as (delete from syncd.missing where plan_id = $1::bigint returning contact_id)
select distinct contact_id from gone;

-- name: mirrored
-- With the lists they are missing from, and what those are called there.
select m.contact_id, m.email, m.fields, m.remote,
       array_remove(array_agg(x.list_key order by x.list_key), '') as lists,
       array_agg(coalesce(l.remote_id, x.list_key) order by x.list_key)
           filter (where x.list_key <> '') as remote_lists
  from syncd.mirror m
  join syncd.missing x on x.destination_id = m.destination_id and x.contact_id = m.contact_id
                      and x.scans >= 2
  left join syncd.list_mirror l on l.destination_id = x.destination_id and l.list_id = x.list_key
 where m.destination_id = $1::int and m.contact_id = any($2::text[])
 group by m.destination_id, m.contact_id
 order by m.contact_id;
