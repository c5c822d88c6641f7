-- name: claim_command
-- Executed once, though many workers watch; taken over from a worker that died, with what that one
-- had noted (`note_command`): then it is decided, and is not done again.
update syncd.command c
   set claimed_by = $1::bigint
 where c.id = (
     select o.id from syncd.command o
      where o.finished_at is null
        and (o.claimed_by is null
             or not exists (select 1 from syncd.worker w
                             where w.id = o.claimed_by and w.alive_until > now()))
      order by o.id
      limit 1
        for update skip locked)
returning id, kind, destination, args, requested_by, result as noted,
          extract(epoch from clock_timestamp() - requested_at)::float8 as age;

-- name: note_command
-- In the transaction that carries it out.
update syncd.command set result = $2::jsonb where id = $1::bigint and finished_at is null;

-- name: put_back_command
update syncd.command set claimed_by = null
 where id = $1::bigint and claimed_by = $2::bigint and finished_at is null;

-- name: finish_command
update syncd.command
   set finished_at = clock_timestamp(), outcome = $2::text, result = $3::jsonb
 where id = $1::bigint and finished_at is null;

-- name: sources
select name, contact, list, membership from syncd.source;

-- name: clear_halt
update syncd.destination set halted = null
 where id = $1::int and halted is not null and ($2::text is null or starts_with(halted, $2::text))
returning id;

-- name: halted_with
select halted_with from syncd.feed where destination_id = $1::int;

-- name: trim_change
select syncd.trim_change();

-- name: trim_mirror
delete from syncd.mirror
 where state = 'withdrawn' and pushed_at < now() - make_interval(days => $1::int);

-- name: trim_workers
delete from syncd.worker w
 where w.alive_until < now() - interval '1 hour'
   and not exists (select 1 from syncd.journal j
                    where j.claimed_by = w.id and j.state = 'sent');

-- name: analyze_wanted
-- Tables whose statistics are far behind what is in them: plans made with those go wrong.
select relid::regclass::text as relation
  from pg_stat_user_tables
 where schemaname = 'syncd' and relname in ('journal', 'mirror', 'change', 'sharer')
   and n_mod_since_analyze > 10000 + n_live_tup / 5;

-- name: last_runs
select f.read_at,
       (select max(r.started_at) from syncd.run r
         where r.destination_id = f.destination_id and r.kind = 'full'
           and r.finished_at is not null and r.error is null) as full_at
  from syncd.feed f
 where f.destination_id = $1::int;

-- name: feeds
select destination_id, system_identifier, timeline, relation,
       coalesce(pg_snapshot_xmin(position) > pg_snapshot_xmax(pg_current_snapshot()), false)
           as ahead
  from syncd.feed
 order by destination_id;

-- name: owe_full
update syncd.feed f set owes_full = true
  from syncd.destination d
 where d.id = f.destination_id and d.name = $1::text;

-- name: keep_deliveries
select syncd.keep_deliveries($1::int);

-- name: drop_backlog
-- A destination that does not read its feed (paused, misconfigured) keeps no more of it than a
-- keyed pass would take: beyond that it owes a full pass instead.
update syncd.feed f
   set position = pg_current_snapshot(), owes_full = true
  from syncd.destination d
 where d.id = f.destination_id and (d.paused or d.halted is not null) and f.position is not null
   and (select count(*)
          from (select 1 from syncd.change c
                 where c.source = d.source and c.xid >= pg_snapshot_xmin(f.position)
                   and not pg_visible_in_snapshot(c.xid, f.position)
                 limit $1::bigint + 1) unread) > $1::bigint;
