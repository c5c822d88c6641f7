-- name: workers_alive
select count(*) from syncd.worker where alive_until > now();

-- name: command
insert into syncd.command (kind, destination, args, requested_by)
values ($1::text, $2::text, $3::jsonb, $4::text)
returning id, requested_at;

-- name: outcome
select outcome, result from syncd.command where id = $1::bigint and finished_at is not null;

-- name: withdraw_command
-- Whoever asked has given up: a later worker need not do it any more.
delete from syncd.command where id = $1::bigint and claimed_by is null;

-- name: read_since
-- How the first reading that began after that moment ended; what it noted.
select coalesce((s.counts ->> 'noted')::int, 0) as noted, s.error
  from syncd.scan s
 where s.destination_id = $1::int and s.feed = 'opt_outs' and s.finished_at is not null
   and s.started_at >= $2::timestamptz
 order by s.id
 limit 1;

-- name: stamped_since
select read_at >= $2::timestamptz from syncd.feed where destination_id = $1::int;

-- name: standstill
select paused, halted from syncd.destination where id = $1::int;

-- name: scanned_since
-- Scans that ended since then, and whether some are still asked for; `nothing`: there is no list.
select count(*) filter (where s.finished_at >= $2::timestamptz) as n,
       count(*) filter (where s.finished_at is null or exists (  -- not judged yet
           select 1 from syncd.worker w where w.id = s.claimed_by and w.alive_until > now())) > 0
           as open,
       $3::boolean and not exists (select 1 from syncd.list_mirror l
                                    where l.destination_id = $1::int and l.remote_id is not null
                                      and l.state <> 'asks') as nothing
  from syncd.scan s
 where s.destination_id = $1::int and s.feed = 'contacts';
