-- name: lock_feed
-- The first statement of a pass: what follows reads with a snapshot younger than the last pass.
select position::text as position, owes_full, here, generation, system_identifier, timeline,
       pass_run, pass_by
  from syncd.feed
 where destination_id = $1::int
   for no key update;

-- name: anything_new
-- A mapping that was changed ($3) is news too, though no contact has.
select f.owes_full or f.position is null or f.generation is distinct from $3::text or exists (
           select 1 from syncd.change c
            where c.source = $2::text and c.xid >= pg_snapshot_xmin(f.position)
              and not pg_visible_in_snapshot(c.xid, f.position))
  from syncd.feed f
 where f.destination_id = $1::int;

-- name: read_change
-- What is new since the feed's position, at most $2 rows, and the feed moves beyond it. One snapshot
-- says both what is read and where the feed then stands (races 12). It never names its own
-- transaction as running: where somebody with a later number has committed (while we waited for the
-- feed's lock, say), what this pass itself notes as changed would count as read. So it is named.
with feed as materialized (
    select position, owes_full, here, generation from syncd.feed where destination_id = $3::int
), rows as materialized (
    select c.contact_id, c.list_id, c.gone
      from syncd.change c
     where c.source = $1::text
       and c.xid >= pg_snapshot_xmin((select f.position from feed f))
       and not pg_visible_in_snapshot(c.xid, (select f.position from feed f))
     limit $2::bigint + 1
), found as materialized (
    select count(*) as n, count(*) > $2::bigint as too_many,
           coalesce(bool_or(contact_id is null and list_id is null), false) as owes_full
      from rows
), moved as (
    update syncd.feed m
       set owes_full = m.owes_full or found.owes_full, planned_at = now(),
           position = (select pg_snapshot_xmin(s) || ':' || pg_snapshot_xmax(s) || ':'
                          || array_to_string(array(
                                 select x from pg_snapshot_xip(s) x
                                 union
                                 select pg_current_xact_id()
                                  where pg_current_xact_id() < pg_snapshot_xmax(s)
                                  order by 1), ',')
                     from pg_current_snapshot() s)::pg_snapshot
      from found
     where m.destination_id = $3::int and found.n > 0 and not found.too_many
)
select f.position is null as is_fresh, f.owes_full as owed_full, f.here, f.generation,
       found.n, found.too_many, found.owes_full,
       array(select distinct contact_id from rows where contact_id is not null) as contacts,
       array(select distinct list_id from rows where list_id is not null) as lists,
       array(select distinct contact_id from rows where gone) as gone,
       exists (select 1 from syncd.sharer s where s.destination_id = $3::int) as shares
  from feed f, found;

-- name: drop_changes
-- More than a keyed pass is worth: a full pass will see it all.
update syncd.feed
   set position = pg_current_snapshot(), owes_full = true, planned_at = now()
 where destination_id = $1::int;

-- name: owe_full
update syncd.feed set owes_full = true where destination_id = $1::int and not owes_full;

-- name: set_generation
update syncd.feed set generation = $2::text, owes_full = true
 where destination_id = $1::int and generation is distinct from $2::text;

-- name: mirror_addresses
-- The last known addresses of these contacts, where a sharer or the mirror knows one.
select m.contact_id, m.email, m.state
  from syncd.mirror m
 where m.destination_id = $1::int and m.contact_id = any($2::text[]);

-- name: at_mirror_addresses
select m.contact_id, m.email, m.state
  from syncd.mirror m
 where m.destination_id = $1::int and m.email = any($2::text[]);

-- name: sharer_addresses
select s.contact_id, s.email
  from syncd.sharer s
 where s.destination_id = $1::int and (s.contact_id = any($2::text[]) or s.email = any($3::text[]));

-- name: forget_sharers
delete from syncd.sharer
 where destination_id = $1::int and ($2::text[] is null or email = any($2::text[]));

-- name: write_sharers
insert into syncd.sharer (destination_id, contact_id, email, holder, subscribed)
select $1::int, u.contact_id, u.email, u.holder, u.subscribed
  from unnest($2::text[], $3::text[], $4::text[], $5::boolean[])
       u (contact_id, email, holder, subscribed)
 order by u.contact_id
on conflict (destination_id, contact_id) do update
   set email = excluded.email, holder = excluded.holder, subscribed = excluded.subscribed;

-- name: journal
-- Whether a row is due, waits, or is only told to look again is decided on the locked row, never
-- from this statement's snapshot (races 4). On conflict the more urgent lane stays, due_at and
-- planned_at keep the older, a row in backoff keeps its due_at, a held row its plan (29). A fault
-- may be older than a row that is due: the claim looks again. A running job keeps the digest it got.
-- A column that holds only the usual (upsert, lane 1, no plan, no fault) may come empty. Where $10
-- names what the guard counts these as, nothing is written unless it lets all $11 pass.
with room as materialized (
    select r.held, r.passes
      from syncd.take_room($1::int, $10::text, $11::bigint, $12::int, $13::real) r
), written as (
insert into syncd.journal as j
       (destination_id, contact_id, wish, lane, state, digest, plan_id, doubtful, force, last_error)
select $1::int, u.contact_id, coalesce(u.wish, 'upsert'), coalesce(u.lane, 1),
       case when u.fault is not null then 'rejected' when u.plan_id is not null then 'held'
            else 'due' end,
       u.digest, u.plan_id, $7::boolean, $9::boolean, u.fault
  from unnest($2::text[], $3::text[], $4::smallint[], $5::uuid[], $6::bigint[], $8::text[])
       u (contact_id, wish, lane, digest, plan_id, fault)
 where (select r.passes from room r)
 order by u.contact_id
on conflict (destination_id, contact_id) do update
   set wish = excluded.wish,
       lane = least(j.lane, excluded.lane),
       again = j.state = 'sent',
       doubtful = j.doubtful or excluded.doubtful,
       force = j.force or excluded.force,
       plan_id = case when j.state = 'held' and excluded.state = 'held' and j.wish = excluded.wish
                      then j.plan_id else excluded.plan_id end,
       state = case
           when j.state = 'sent' then 'sent'
           when excluded.state = 'rejected' and j.state in ('due', 'held') then 'due'
           when excluded.state = 'rejected' then 'rejected'
           when j.state = 'rejected' and j.digest is not distinct from excluded.digest
                and j.wish = excluded.wish and not excluded.doubtful and not excluded.force
               then 'rejected'
           else excluded.state end,
       digest = case
           when j.state = 'sent' or j.receipt is not null then j.digest
           when excluded.state = 'due' and j.state <> 'rejected' then j.digest
           else excluded.digest end,
       last_error = case when excluded.state = 'rejected' then excluded.last_error
                         else j.last_error end,
       due_at = case when j.state = 'rejected' or j.state = 'held' then now() else j.due_at end,
       attempts = case when j.state = 'rejected' and excluded.state = 'due' then 0
                       else j.attempts end,
       planned_at = least(j.planned_at, excluded.planned_at)
)
select r.held, r.passes from room r;

-- name: counted_today
select coalesce(sum(n), 0)::bigint from syncd.tally
 where destination_id = $1::int and kind = $2::text and at > now() - interval '24 hours';

-- name: here
select f.here + coalesce((select sum(t.n) from syncd.tally t
                           where t.destination_id = f.destination_id and t.kind = 'here'), 0)::bigint
  from syncd.feed f where f.destination_id = $1::int;

-- name: undecided_plan
-- Not one that holds nothing any more: the pass that comes upon it ends it.
select p.id, p.state from syncd.plan p
 where p.destination_id = $1::int and p.kind = $2::text
   and (p.state = 'open'
        or (p.state = 'held'
            and exists (select 1 from syncd.journal j
                         where j.plan_id = p.id and j.state = 'held')));

-- name: end_emptied
-- Held plans ($2 null: of every kind) end whose last row has gone, or is among $3, about to go.
select syncd.end_emptied($1::int, $2::text, $3::text[]);

-- name: take_room
select r.held, r.passes
  from syncd.take_room($1::int, $2::text, $3::bigint, $4::int, $5::real) r;

-- name: count
-- As `take_room`, of what has been let pass already.
with more as (
    update syncd.tally set n = n + $3::bigint
     where destination_id = $1::int and kind = $2::text and at = date_trunc('minute', now())
    returning 1
)
insert into syncd.tally (destination_id, kind, n, at)
select $1::int, $2::text, $3::bigint, date_trunc('minute', now())
 where not exists (select 1 from more);

-- name: room
select (select p.id from syncd.plan p
         where p.destination_id = f.destination_id and p.kind = $2::text and p.state = 'held')
           as held,
       f.here + coalesce((select sum(t.n) from syncd.tally t
                           where t.destination_id = f.destination_id and t.kind = 'here'), 0)::bigint
           as here,
       (select coalesce(sum(t.n), 0)::bigint from syncd.tally t
         where t.destination_id = f.destination_id and t.kind = $2::text
           and t.at > now() - interval '24 hours') as today
  from syncd.feed f
 where f.destination_id = $1::int;

-- name: begin_plan
insert into syncd.plan (destination_id, kind, state, run_id, reason)
values ($1::int, $2::text, $3::text, $4::bigint, $5::text)
on conflict (destination_id, kind) where state in ('open', 'held') do update
   set run_id = coalesce(excluded.run_id, plan.run_id),
       state = case when plan.state = 'held' then 'held' else excluded.state end,
       reason = coalesce(excluded.reason, plan.reason)
returning id, state;

-- name: open_plans
select p.id, p.kind,
       (select count(*) from syncd.journal j where j.plan_id = p.id and j.state = 'held')::bigint
           as rows
  from syncd.plan p
 where p.destination_id = $1::int and p.state = 'open'
 order by p.id;

-- name: hold_plan
update syncd.plan set state = 'held', reason = $2::text where id = $1::bigint and state = 'open';

-- name: note_changes
insert into syncd.change (source, contact_id) select $1::text, unnest($2::text[]);

-- name: members_of
-- Journalled as changed: everyone who is, by the mirror, in one of these lists.
select m.contact_id from syncd.mirror m
 where m.destination_id = $1::int and m.lists && $2::text[];

-- name: engine
select (select system_identifier from pg_control_system()) as system_identifier,
       -- of a server that was just promoted the checkpoint does not tell yet
       (select case when pg_is_in_recovery() then timeline_id
                    else ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int end
          from pg_control_checkpoint()) as timeline,
       'syncd.feed'::regclass::oid::bigint as relation;

-- name: flushed
-- How much of its log the server has written to its disk; null while it follows another server.
select case when not pg_is_in_recovery()
            then (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint end;

-- name: stamp_engine
update syncd.feed
   set system_identifier = $2::bigint, timeline = $3::int, relation = $4::bigint
 where destination_id = $1::int;

-- name: doubt_everything
-- After a restore or failover nobody knows what was in flight (races 28). Changes that another
-- cluster numbered beyond our count would be new to every pass to come; a full pass is owed anyhow.
-- Mail that was off may have been turned on since: that it is off is said again.
with foreign_changes as (
    delete from syncd.change where xid >= pg_snapshot_xmax(pg_current_snapshot())
), doubted as (
    update syncd.journal
       set state = case when syncd.plan_waits(plan_id) then 'held' else 'due' end,
           doubtful = true, claimed_by = null, again = false, due_at = now()
     where destination_id = $1::int and state = 'sent'
), silent as (
    insert into syncd.journal (destination_id, contact_id, wish, lane, state, doubtful, email)
    select m.destination_id, m.contact_id, 'upsert', 0, 'due', true, m.email
      from syncd.mirror m
     where m.destination_id = $1::int and not m.subscribed and m.state in ('here', 'adopted')
     order by m.contact_id
    on conflict do nothing
)
update syncd.feed set position = null, owes_full = true, read_at = null, scanned_at = null
 where destination_id = $1::int;

-- name: start_pass
update syncd.feed
   set position = coalesce(position, pg_current_snapshot()), owes_full = false,
       generation = $2::text, pass_run = $3::bigint, pass_by = $4::bigint
 where destination_id = $1::int;

-- name: begin_run
insert into syncd.run (kind, destination_id, worker_id)
values ($1::text, $2::int, $3::bigint)
returning id;

-- name: end_run
update syncd.run set finished_at = clock_timestamp(), counts = $2::jsonb, error = $3::text
 where id = $1::bigint;

-- name: recount
-- Counts who is there, in the place of what settlements told: of both by one snapshot, so that no
-- settlement beside it is counted twice, or not at all. `moved`: how many have come or gone since $2.
with folded as (
    delete from syncd.tally where destination_id = $1::int and kind = 'here'
    returning n, at
), counted as (
    update syncd.feed
       set here = (select count(*) from syncd.mirror
                    where destination_id = $1::int and state in ('here', 'adopted'))
     where destination_id = $1::int
    returning here
)
select c.here,
       (select coalesce(sum(abs(f.n)) filter (where f.at >= $2::timestamptz), 0)::bigint
          from folded f) as moved
  from counted c;

-- name: end_pass
with forgotten as (
    delete from syncd.tally
     where destination_id = $1::int and kind <> 'here' and at < now() - interval '25 hours'
)
update syncd.feed
   set pass_run = null, pass_by = null, owes_full = owes_full or not $3::boolean
 where destination_id = $1::int and pass_run = $2::bigint
returning destination_id;

-- name: count_here
select count(*) from syncd.mirror where destination_id = $1::int and state in ('here', 'adopted');

-- name: mirror_window
select contact_id from syncd.mirror
 where destination_id = $1::int and contact_id > $2::text and state in ('here', 'adopted')
 order by contact_id
 limit $3::int;

-- name: journal_window
-- What is held to be removed is known to be gone.
select contact_id from syncd.journal
 where destination_id = $1::int and contact_id > $2::text
   and (state = 'rejected' or (state = 'held' and wish <> 'remove'))
 order by contact_id
 limit $3::int;

-- name: rejected_window
select contact_id from syncd.journal
 where destination_id = $1::int and contact_id > $2::text and state = 'rejected'
 order by contact_id
 limit $3::int;

-- name: worker_alive
select exists (select 1 from syncd.worker where id = $1::bigint and alive_until > now());

-- name: abandoned
-- A full pass whose worker died was not finished: it is owed again. (A feed that a pass has locked
-- is looked at the next time.)
with dead as (
    select f.destination_id from syncd.feed f
     where f.pass_by is not null
       and not exists (select 1 from syncd.worker w where w.id = f.pass_by and w.alive_until > now())
       for no key update of f skip locked
)
update syncd.feed f set owes_full = true, pass_run = null, pass_by = null
  from dead
 where f.destination_id = dead.destination_id;
