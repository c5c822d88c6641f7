-- name: expected
-- How much there is to read: who is there by the mirror, and in how many lists.
select count(*) as here, coalesce(sum(cardinality(m.lists)), 0)::bigint as memberships,
       max(m.pushed_at) as pushed_at, clock_timestamp() as now
  from syncd.mirror m
 where m.destination_id = $1::int and m.state in ('here', 'adopted');

-- name: now
select clock_timestamp();

-- name: meet
-- Whose records these are: by our id where the provider stores it, by the provider's own id as the
-- mirror remembers it, by the address as the mirror has it, as the source wants it ($13). $3: they
-- were read for just these contacts; $4: in pages of this list; $5: when they were asked for.
with u as materialized (
    select u.remote_id, u.email, u.subscribed, u.lists::text[] as lists, u.fields::jsonb as fields,
           u.told, u.remote::jsonb as remote, u.wanting
      from unnest($6::text[], $7::text[], $8::boolean[], $9::text[], $10::text[], $11::text[],
                  $12::text[], $13::text[])
           u (remote_id, email, subscribed, lists, fields, told, remote, wanting)
), owned as (
    select u.*,
           case when $3::boolean then u.told
                else coalesce(by_id.contact_id, by_record.contact_id,
                              case when u.told is null or u.told = by_address.contact_id
                                   then by_address.contact_id end) end as contact_id
      from u
      left join lateral (
          select m.contact_id from syncd.mirror m
           where m.destination_id = $1::int and m.contact_id = u.told offset 0) by_id on true
      left join lateral (
          select m.contact_id from syncd.mirror m
           where m.destination_id = $1::int and m.remote is not null and m.remote @> u.remote
           order by m.state in ('here', 'adopted') desc, m.contact_id
           limit 1) by_record on true
      left join lateral (
          select coalesce(
                     (select m.contact_id from syncd.mirror m
                       where m.destination_id = $1::int and m.email = u.email
                       order by m.state in ('here', 'adopted') desc, m.contact_id limit 1),
                     (select u.wanting
                       where not exists (select 1 from syncd.mirror m
                                          where m.destination_id = $1::int
                                            and m.contact_id = u.wanting
                                            and m.state in ('here', 'adopted')))) as contact_id
          offset 0) by_address on true
)
insert into syncd.audited as a
       (run_id, list_key, remote_id, contact_id, email, subscribed, lists, fields, read_at)
select $2::bigint, $4::text, o.remote_id, o.contact_id, o.email, o.subscribed, o.lists, o.fields,
       $5::timestamptz
  from owned o
 order by o.remote_id
on conflict (remote_id, list_key, run_id) do update
   set contact_id = coalesce(a.contact_id, excluded.contact_id),
       email = coalesce(excluded.email, a.email),
       subscribed = coalesce(excluded.subscribed, a.subscribed),
       lists = array(select distinct l from unnest(a.lists || excluded.lists) l order by l),
       fields = case when a.fields is null then excluded.fields
                     else a.fields || coalesce(excluded.fields, '{}') end;

-- name: mark
-- Who has said no there, by an event, and is mailed by the mirror: beside the records, which may not
-- tell. A no that is known already, and only told again, is no difference.
insert into syncd.audited (run_id, remote_id, contact_id, opted_out)
select $1::bigint, 'said no: ' || m.contact_id, m.contact_id, true
  from syncd.mirror m
 where m.destination_id = $2::int and m.contact_id = any($3::text[]) and m.subscribed
 order by m.contact_id
on conflict (remote_id, list_key, run_id) do nothing
returning contact_id;

-- name: to_read
-- The next of those who should be there, and which record of theirs a page has shown.
with m as materialized (
    select m.contact_id, m.email, m.remote from syncd.mirror m
     where m.destination_id = $1::int and m.contact_id > $3::text
       and m.state in ('here', 'adopted')
     order by m.contact_id
     limit $4::int
), a as materialized (
    select a.contact_id, min(a.remote_id) as remote_id, bool_or(a.fields is not null) as told
      from syncd.audited a
     where a.run_id = $2::bigint and a.contact_id = any(array(select m.contact_id from m))
       and not a.opted_out
     group by a.contact_id
)
select m.contact_id, m.email, m.remote, a.remote_id, coalesce(a.told, false) as told
  from m left join a on a.contact_id = m.contact_id
 order by m.contact_id;

-- name: to_read_again
-- Of these contacts, those whose fields only a list that was written out ($3) has told.
select m.contact_id, m.email, m.remote, min(a.remote_id) as remote_id
  from syncd.mirror m
  join syncd.audited a on a.run_id = $2::bigint and a.contact_id = m.contact_id
 where m.destination_id = $1::int and m.contact_id = any($3::text[]) and not a.opted_out
 group by m.contact_id, m.email, m.remote
having bool_and(a.list_key <> '')
 order by m.contact_id;

-- name: long_lists
-- Lists ($2) of at least so many contacts ($3), and how many contacts are in any of these.
with n as materialized (
    select l.list_id
      from syncd.mirror m
     cross join unnest(m.lists) l (list_id)
     where m.destination_id = $1::int and m.state in ('here', 'adopted')
       and l.list_id = any($2::text[])
     group by l.list_id
    having count(*) >= $3::int
)
select array(select n.list_id from n order by n.list_id) as lists,
       (select count(*) from syncd.mirror m
         where m.destination_id = $1::int and m.state in ('here', 'adopted')
           and m.lists && array(select n.list_id from n)) as contacts;

-- name: fill
-- What a list that was written out tells of whom its pages have shown, by address.
with u as materialized (
    select u.email, u.fields::jsonb as fields from unnest($3::text[], $4::text[]) u (email, fields)
), m as materialized (
    select m.contact_id, u.email, u.fields
      from u
     cross join lateral (select m.contact_id from syncd.mirror m
                          where m.destination_id = $2::int and m.email = u.email) m
)
update syncd.audited a set fields = m.fields
  from m
 where a.run_id = $1::bigint and a.contact_id = any(array(select m.contact_id from m))
   and a.contact_id = m.contact_id and a.email = m.email
   and a.fields is null and not a.opted_out;

-- name: outside
-- The next window of mirror ids, whatever their state.
select contact_id from syncd.mirror
 where destination_id = $1::int and contact_id > $2::text
 order by contact_id
 limit $3::int;

-- name: extra
-- Records that are nobody's of ours: a contact in several lists may have one in each.
select count(distinct coalesce(a.email, a.remote_id)) from syncd.audited a
 where a.run_id = $1::bigint and a.contact_id is null;

-- name: extras
select a.remote_id, a.email from syncd.audited a
 where a.run_id = $1::bigint and a.contact_id is null
 order by a.remote_id
 limit $2::int;

-- name: read
select count(distinct a.remote_id) from syncd.audited a
 where a.run_id = $1::bigint and not a.opted_out;

-- name: still_left
-- Which of these contacts a second reading has met, and again not in the list of theirs.
select u.contact_id, u.list_id
  from unnest($2::text[], $3::text[], $4::text[]) u (contact_id, list_id, remote_id)
 where exists (select 1 from syncd.audited a
                where a.run_id = $1::bigint and a.contact_id = u.contact_id and not a.opted_out)
   and not exists (select 1 from syncd.audited a
                    where a.run_id = $1::bigint and a.contact_id = u.contact_id
                      and a.lists @> array[u.remote_id]);

-- name: adopt
-- What is there becomes what the mirror says, and is to be looked at by the plan: as adopted, so that
-- the guard counts it. Not what was written since it was read, nor what is on its way.
with u as materialized (
    select u.contact_id, u.pushed_at, u.fields::jsonb as fields, u.lists::text[] as lists,
           u.is_on
      from unnest($2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::boolean[])
           u (contact_id, pushed_at, fields, lists, is_on)
), free as materialized (
    select m.contact_id
      from syncd.mirror m
      join u on u.contact_id = m.contact_id and u.pushed_at = m.pushed_at
     where m.destination_id = $1::int and m.contact_id = any(array(select contact_id from u))
       and m.state in ('here', 'adopted')
       and not exists (select 1 from syncd.journal j
                        where j.destination_id = $1::int and j.contact_id = m.contact_id
                          and (j.state = 'sent' or j.doubtful))
     order by m.contact_id
       for no key update of m
)
update syncd.mirror m
   set state = 'adopted', digest = null, fields = m.fields || u.fields,
       lists = coalesce(u.lists, m.lists), subscribed = m.subscribed or u.is_on
  from free
  join u on u.contact_id = free.contact_id
 where m.destination_id = $1::int and m.contact_id = free.contact_id
returning m.contact_id;

-- name: miss
-- Two look-ups of its own stand for two scans, where nothing can be scanned: this one, and the one
-- that whoever judges them makes.
with looked as (
    insert into syncd.scan (destination_id, feed, begun_at, finished_at)
    values ($1::int, 'audit', $3::timestamptz, clock_timestamp())
    returning id
)
insert into syncd.missing as x (destination_id, list_key, contact_id, scan_id, scans, since)
select $1::int, '', u.contact_id, looked.id, 2, $3::timestamptz
  from looked, unnest($2::text[]) u (contact_id)
 order by u.contact_id
on conflict (destination_id, list_key, contact_id) do update
   set scans = excluded.scans, scan_id = excluded.scan_id, since = excluded.since
 where x.plan_id is null;

-- name: clear
delete from syncd.audited where run_id = $1::bigint;

-- name: clear_old
-- Of audits whose process died. Their numbers are looked for by the index: one that runs may be long.
with recursive runs (run_id) as (
    select min(a.run_id) from syncd.audited a
    union all
    select (select min(a.run_id) from syncd.audited a where a.run_id > r.run_id)
      from runs r where r.run_id is not null
), old as (
    select o.run_id from runs o
     where o.run_id is not null
       and not exists (select 1 from syncd.run r
                         join syncd.worker w on w.id = r.worker_id and w.alive_until > now()
                        where r.id = o.run_id and r.finished_at is null)
)
delete from syncd.audited a using old where a.run_id = old.run_id;
