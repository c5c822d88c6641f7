-- name: destinations
-- `news`: the feed holds something that no pass has looked at yet.
select d.id, d.name, d.provider, d.source, d.paused, d.halted, d.created_at,
       f.owes_full, f.position is null as never_planned, f.planned_at, f.read_at,
       f.here + coalesce((select sum(t.n) from syncd.tally t
                           where t.destination_id = d.id and t.kind = 'here'), 0)::bigint as here,
       f.position is not null and exists (
           select 1 from syncd.change c
            where c.source = d.source and c.xid >= pg_snapshot_xmin(f.position)
              and not pg_visible_in_snapshot(c.xid, f.position)) as news,
       (select count(*) from syncd.intent i where i.destination_id = d.id) as windows,
       now() as at
  from syncd.destination d
  join syncd.feed f on f.destination_id = d.id
 where d.id = any($1::int[])
 order by d.name;

-- name: journal
select destination_id, state, lane, count(*) as n, count(*) filter (where doubtful) as doubtful,
       min(planned_at) as since, min(due_at) as next_due
  from syncd.journal
 where destination_id = any($1::int[])
 group by destination_id, state, lane
 order by destination_id, lane, state;

-- name: words
-- What the journal says most often of rows that wait or were refused.
select destination_id, state, said, n
  from (select destination_id, state, last_error as said, count(*) as n,
               row_number() over (partition by destination_id, state
                                  order by count(*) desc, last_error) as place
          from syncd.journal
         where destination_id = any($1::int[]) and state in ('due', 'rejected')
           and last_error is not null
         group by destination_id, state, last_error) w
 where place <= 3
 order by destination_id, state, n desc;

-- name: new_share
-- Of what is pending at a destination ($1), which share is of contacts that are not there yet: by a
-- thousand rows, for a first fill waits by the million.
select coalesce(avg((m.contact_id is null and j.wish = 'upsert')::int), 0)::float8
  from (select contact_id, wish from syncd.journal
         where destination_id = $1::int and state in ('due', 'sent') limit 1000) j
  left join syncd.mirror m on m.destination_id = $1::int and m.contact_id = j.contact_id
                          and m.state in ('here', 'adopted');

-- name: held_since
select id, created_at from syncd.plan where id = any($1::bigint[]);

-- name: lacking
-- What the provider could not be given, the worst first: a no that it does not hold. Adapters write
-- `field:` and `list:` before what concerns no more than that. A no that was refused, and the
-- withdrawal with it, was not told either: the mirror has mail on.
select destination_id, what, count(*) as n, silent, (array_agg(contact_id order by contact_id))[:20]
           as contacts
  from (select m.destination_id, m.contact_id, u.what,
               not m.subscribed and u.what !~ '^(field|list):' as silent
          from syncd.mirror m, unnest(m.lacking) u (what)
         where m.destination_id = any($1::int[]) and m.lacking <> '{}'
        union all
        select j.destination_id, j.contact_id, 'refused: ' || coalesce(j.last_error, ''), true
          from syncd.journal j
          join syncd.mirror m
            on m.destination_id = j.destination_id and m.contact_id = j.contact_id
           and m.state in ('here', 'adopted') and m.subscribed
         where j.destination_id = any($1::int[]) and j.state = 'rejected' and j.silenced) l
 group by destination_id, what, silent
 order by destination_id, silent desc, 3 desc, what;

-- name: lacking_contacts
-- Contacts, each once: of which anything is lacking, and whose no was not told.
select destination_id, count(*) filter (where lacks) as n, count(*) filter (where silent) as silent
  from (select m.destination_id, true as lacks, not m.subscribed and exists (
                   select 1 from unnest(m.lacking) u (what) where u.what !~ '^(field|list):')
                   as silent
          from syncd.mirror m
         where m.destination_id = any($1::int[]) and m.lacking <> '{}'
        union all
        select j.destination_id, false, true
          from syncd.journal j
          join syncd.mirror m
            on m.destination_id = j.destination_id and m.contact_id = j.contact_id
           and m.state in ('here', 'adopted') and m.subscribed
         where j.destination_id = any($1::int[]) and j.state = 'rejected' and j.silenced) l
 group by destination_id;

-- name: lists
select destination_id, state, count(*) as n
  from syncd.list_mirror
 where destination_id = any($1::int[])
 group by destination_id, state
 order by destination_id, state;

-- name: full_passes
-- The latest pass of each destination that has ended.
select distinct on (r.destination_id) r.destination_id, r.started_at, r.finished_at, r.counts,
       r.error
  from syncd.run r
 where r.destination_id = any($1::int[]) and r.kind = 'full' and r.finished_at is not null
 order by r.destination_id, r.id desc;

-- name: running
-- Passes and readings whose worker is alive.
select r.destination_id, r.kind, r.started_at, w.id as worker, w.host
  from syncd.run r
  join syncd.worker w on w.id = r.worker_id and w.alive_until > now()
 where r.destination_id = any($1::int[]) and r.finished_at is null
union all
select s.destination_id,
       'read ' || s.feed || case when s.list_key <> '' then ' of list ' || s.list_key else '' end,
       coalesce(s.begun_at, s.started_at), w.id, w.host
  from syncd.scan s
  join syncd.worker w on w.id = s.claimed_by and w.alive_until > now()
 where s.destination_id = any($1::int[]) and s.finished_at is null
 order by 1, 3;

-- name: drift
-- What the latest whole scans found, all lists together; `open`: scans that are asked for.
select s.destination_id, count(*) as scans, min(s.finished_at) as since,
       sum((s.counts ->> 'seen')::bigint)::bigint as seen,
       sum((s.counts ->> 'extra')::bigint)::bigint as extra,
       sum((s.counts ->> 'stray')::bigint)::bigint as stray,
       sum((s.counts ->> 'missing')::bigint)::bigint as missing,
       sum((s.counts ->> 'address_differs')::bigint)::bigint as address_differs
  from (select distinct on (s.destination_id, s.list_key) s.*
          from syncd.scan s
         where s.destination_id = any($1::int[]) and s.feed = 'contacts'
           and s.finished_at is not null and s.error is null
         order by s.destination_id, s.list_key, s.id desc) s
 group by s.destination_id;

-- name: scans_open
select destination_id, count(*) as n from syncd.scan
 where destination_id = any($1::int[]) and feed = 'contacts' and finished_at is null
 group by destination_id;

-- name: workers
select id, host, pid, version, started_at, alive_until
  from syncd.worker where alive_until > now() order by id;

-- name: meters
select meter, per_second, in_flight, per_day,
       case when day = (now() at time zone 'UTC')::date then used_today else 0 end as used_today,
       case when not_before > now() then not_before end as not_before
  from syncd.meter
 where scope = $1::text
 order by meter;

-- name: open_long
-- Transactions that make every pass read far back, and keep what is done from being trimmed.
-- Somebody else's query is hidden from those without the right to see it.
select 'session' as kind, a.pid::text as name, a.usename::text as who, a.datname::text as database,
       a.application_name as application, a.state, a.xact_start as since, a.query
  from pg_stat_activity a
 where (a.backend_xid is not null or a.backend_xmin is not null)
   and a.xact_start < now() - interval '1 minute' and a.pid <> pg_backend_pid()
   and a.backend_type = 'client backend'
union all
select 'prepared', p.gid, p.owner::text, p.database::text, null, 'prepared', p.prepared, null
  from pg_prepared_xacts p
 where p.prepared < now() - interval '1 minute'
 order by 7;

-- name: rejected
-- Refused contacts, the oldest first; an address where one was sent or is known.
select d.name as destination, j.contact_id, coalesce(j.email, m.email) as email,
       j.last_error as reason, j.last_status as status, j.attempts, j.planned_at as since
  from syncd.journal j
  join syncd.destination d on d.id = j.destination_id
  left join syncd.mirror m on m.destination_id = j.destination_id and m.contact_id = j.contact_id
 where j.destination_id = any($1::int[]) and j.state = 'rejected'
 order by d.name, j.planned_at, j.contact_id;

-- name: rejected_lists
select d.name as destination, l.list_id, l.name, l.state, l.last_error as reason, l.attempts,
       l.due_at as since
  from syncd.list_mirror l
  join syncd.destination d on d.id = l.destination_id
 where l.destination_id = any($1::int[]) and l.state in ('rejected', 'asks')
 order by d.name, l.list_id;
