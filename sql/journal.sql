-- name: claim
select contact_id, wish, lane, digest, email, doubtful, claim, attempts, crashes, batch_cap, force,
       receipt, planned_at, sent_lists, left_lists, silenced
  from syncd.claim($1::int, $2::int, $3::bigint);

-- name: claim_again
update syncd.journal set again = true
 where destination_id = $1::int and contact_id = any($2::text[]) and state = 'sent';

-- name: claim_job
select contact_id, wish, lane, digest, email, doubtful, claim, attempts, crashes, batch_cap, force,
       receipt, planned_at, sent_lists, left_lists, silenced
  from syncd.claim_job($1::int, $2::bigint);

-- name: write_intent
-- What is about to be sent, and under which address; on disk before the request leaves. Where a scan
-- or a look ends doubt first ($8), the record in doubt has the address of the try that was lost.
update syncd.journal j
   set digest = u.digest, holds = u.email,
       email = case when $8::boolean and j.doubtful then coalesce(j.email, u.email)
                    else u.email end,
       sent_lists = case when j.doubtful then j.sent_lists || u.lists::text[]
                         else u.lists::text[] end,
       silenced = u.silences or (j.doubtful and j.silenced),
       left_lists = j.left_lists || u.left_lists::text[],
       waits_for = null, waits_since = null
  from unnest($2::text[], $3::uuid[], $4::text[], $5::text[], $6::boolean[], $7::text[])
       u (contact_id, digest, email, lists, silences, left_lists)
 where j.destination_id = $1::int and j.contact_id = u.contact_id;

-- name: try_at
update syncd.journal j set email = u.email
  from unnest($3::text[], $4::text[]) u (contact_id, email)
 where j.destination_id = $1::int and j.contact_id = u.contact_id and j.claim = $2::bigint
   and j.state = 'sent';

-- name: part
-- Out of what was put off together, to be claimed by themselves, with an intent of their own.
update syncd.journal j
   set state = 'due', claimed_by = null, again = false, receipt = null, due_at = now(),
       doubtful = j.doubtful or $3::boolean
 where j.destination_id = $1::int and j.contact_id = any($2::text[]);

-- name: drop
delete from syncd.journal where destination_id = $1::int and contact_id = any($2::text[]);

-- name: forget_mirror
delete from syncd.mirror
 where destination_id = $1::int and contact_id = any($2::text[])
   and state in ('absent', 'withdrawn');

-- name: release
-- Back to due; an attempt that was not made is given back. A held plan's row waits again.
update syncd.journal j
   set state = 'due', claimed_by = null, again = false, attempts = greatest(j.attempts - 1, 0),
       due_at = now() + make_interval(secs => u.after), last_error = u.why
  from unnest($2::text[], $3::float8[], $4::text[]) u (contact_id, after, why)
 where j.destination_id = $1::int and j.contact_id = u.contact_id;

-- name: refuse
update syncd.journal j
   set state = 'rejected', claimed_by = null, again = false, digest = u.digest, last_error = u.why,
       last_status = null
  from unnest($2::text[], $3::text[], $4::uuid[]) u (contact_id, why, digest)
 where j.destination_id = $1::int and j.contact_id = u.contact_id;

-- name: lock
-- The rows of a settlement, in the order every writer takes (races 19). `ours`: still the claim
-- that was sent; `plan`: the state of the plan that asked for it `again`.
select j.contact_id, j.claim = $3::bigint and j.state = 'sent' as ours, j.again, j.state,
       (select p.state from syncd.plan p where p.id = j.plan_id) as plan
  from syncd.journal j
 where j.destination_id = $1::int and j.contact_id = any($2::text[])
 order by j.contact_id
   for no key update of j;

-- name: settle
-- What stays in the journal after a settlement; rows that are gone are written anew (a refused
-- settlement is news: due and doubtful), as are those of a window: with the address that was tried.
-- `again` wins: then the wish is the newer plan's. Where a successor has the row in flight (`force`)
-- it is sent once more after that, equal or not: who of the two came last is unknown. What a plan
-- holds stays held.
insert into syncd.journal as j
       (destination_id, contact_id, wish, lane, state, digest, doubtful, attempts, due_at, receipt,
        last_status, last_error, batch_cap, sent_lists, email, plan_id)
select $1::int, u.contact_id, u.wish, u.lane, u.state, u.digest, u.doubtful, u.attempts,
       now() + make_interval(secs => u.after), u.receipt::jsonb, u.status, u.error, u.batch_cap,
       u.lists::text[], case when u.doubtful then u.email end,
       case when u.state = 'held' then (
           select h.plan_id from syncd.journal h
            where h.destination_id = $1::int and h.contact_id = u.contact_id) end
  from unnest($2::text[], $3::text[], $4::smallint[], $5::text[], $6::uuid[], $7::boolean[],
              $8::int[], $9::float8[], $10::text[], $11::int[], $12::text[], $13::int[], $15::text[],
              $16::text[])
       u (contact_id, wish, lane, state, digest, doubtful, attempts, after, receipt, status, error,
          batch_cap, lists, email)
 order by u.contact_id
on conflict (destination_id, contact_id) do update
   set state = case when j.state = 'sent' and j.claim is distinct from $14::bigint then j.state
                    when j.state = 'held' then j.state
                    else excluded.state end,
       claimed_by = case when j.state = 'sent' and j.claim is distinct from $14::bigint
                         then j.claimed_by end,
       again = j.state = 'sent' and j.claim is distinct from $14::bigint,
       digest = case when excluded.state = 'rejected' or excluded.receipt is not null
                     then excluded.digest else j.digest end,
       doubtful = excluded.doubtful or (j.doubtful and j.claim is distinct from $14::bigint),
       attempts = case when j.state = 'sent' and j.claim is distinct from $14::bigint
                       then j.attempts else excluded.attempts end,
       crashes = case when excluded.state = 'rejected' then 0 else j.crashes end,
       due_at = excluded.due_at,
       force = j.force or (j.state = 'sent' and j.claim is distinct from $14::bigint),
       receipt = case when j.claim is distinct from $14::bigint
                      then coalesce(j.receipt, excluded.receipt) else excluded.receipt end,
       last_status = coalesce(excluded.last_status, j.last_status),
       last_error = coalesce(excluded.last_error, j.last_error),
       batch_cap = case when excluded.state = 'due'
                        then coalesce(excluded.batch_cap, j.batch_cap) end,
       sent_lists = case when j.sent_lists is null then excluded.sent_lists else j.sent_lists end,
       email = coalesce(j.email, excluded.email),
       plan_id = case when excluded.state = 'held' or j.state = 'held' then j.plan_id end;

-- name: acknowledged
-- What earlier tries were to leave has been left, or is wanted again.
update syncd.journal set left_lists = null
 where destination_id = $1::int and contact_id = any($2::text[]) and left_lists is not null;

-- name: unsaid
-- The intent was to turn mail off, and nothing was sent of it; what is in doubt is an earlier change.
update syncd.journal set silenced = false
 where destination_id = $1::int and contact_id = any($2::text[]);

-- name: doubt_before
-- What a lost try left at another address has been taken away. What tries before it made of the
-- record that the mirror knows is in doubt as before: in which lists it is nobody has said.
update syncd.journal j set doubtful = true, email = m.email
  from syncd.mirror m
 where j.destination_id = $1::int and j.contact_id = any($2::text[]) and j.sent_lists <> '{}'
   and m.destination_id = $1::int and m.contact_id = j.contact_id and m.state <> 'absent';

-- name: unsure
-- A settlement that came too late: where its try and the successor's were at work the contact may be,
-- or not. Missing there is no news, until something is acknowledged.
update syncd.journal j
   set left_lists = coalesce(j.left_lists, '{}') || u.lists::text[] || coalesce(m.lists, '{}')
  from unnest($2::text[], $3::text[]) u (contact_id, lists)
  left join syncd.mirror m on m.destination_id = $1::int and m.contact_id = u.contact_id
 where j.destination_id = $1::int and j.contact_id = u.contact_id;

-- name: all_lists
-- Those given, and those that the mirror has, as the text of one array.
select m.contact_id,
       array(select l from unnest(m.lists) l union select l from unnest(u.lists::text[]) l)::text
           as lists
  from syncd.mirror m
  join unnest($2::text[], $3::text[]) u (contact_id, lists) on u.contact_id = m.contact_id
 where m.destination_id = $1::int
 order by m.contact_id
   for no key update of m;

-- name: soften
-- The plan that wanted these again was discarded: what is still to be done is planned anew.
update syncd.journal set wish = 'upsert', plan_id = null
 where destination_id = $1::int and contact_id = any($2::text[]);

-- name: write_mirror
-- `remote` is kept where an outcome brought none; nothing that was learned is thrown away. A
-- column that holds only the usual (here, subscribed, nothing lacking) may come empty.
insert into syncd.mirror as m
       (destination_id, contact_id, email, fields, lists, subscribed, digest, state, remote,
        lacking, pushed_at)
select $1::int, u.contact_id, u.email, u.fields::jsonb, u.lists::text[],
       coalesce(u.subscribed, true), u.digest, coalesce(u.state, 'here'), u.remote::jsonb,
       coalesce(u.lacking::text[], '{}'), now()
  from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::boolean[], $7::uuid[],
              $8::text[], $9::text[], $10::text[])
       u (contact_id, email, fields, lists, subscribed, digest, state, remote, lacking)
 order by u.contact_id
on conflict (destination_id, contact_id) do update
   set email = excluded.email, fields = excluded.fields, lists = excluded.lists,
       subscribed = excluded.subscribed, digest = excluded.digest, state = excluded.state,
       remote = coalesce(excluded.remote, m.remote), lacking = excluded.lacking,
       pushed_at = excluded.pushed_at;

-- name: withdraw_mirror
-- The row stays, so that a re-added contact finds its remote record.
update syncd.mirror
   set state = 'withdrawn', lists = '{}', subscribed = false, digest = null, lacking = '{}',
       pushed_at = now()
 where destination_id = $1::int and contact_id = any($2::text[]);

-- name: delete_mirror
delete from syncd.mirror where destination_id = $1::int and contact_id = any($2::text[]);

-- name: unknown_mirror
-- The answer was lost: what the provider holds is not known any more (races 6).
with rows as materialized (
    select contact_id from syncd.mirror
     where destination_id = $1::int and contact_id = any($2::text[])
     order by contact_id
       for no key update
)
update syncd.mirror m set digest = null
 where m.destination_id = $1::int and m.contact_id = any(array(select r.contact_id from rows r));

-- name: doubt_removal
-- The answer to a removal was lost: mail may be off there, or the record gone. As withdrawn, a
-- contact that comes back is looked up, and mailed again.
with rows as materialized (
    select contact_id, state from syncd.mirror
     where destination_id = $1::int and contact_id = any($2::text[]) and state <> 'absent'
     order by contact_id
       for no key update
), doubted as (
    update syncd.mirror m
       set digest = null, subscribed = false, state = 'withdrawn', pushed_at = now()
     where m.destination_id = $1::int
       and m.contact_id = any(array(select r.contact_id from rows r))
)
insert into syncd.tally (destination_id, kind, n)
select $1::int, 'here', -count(*) from rows where state in ('here', 'adopted') having count(*) > 0;

-- name: others_records
-- Which of these contacts were found, by address, in a record that is another's: its mirror row says
-- so. Not the address decides: a lost request of the one that had the record before may have moved it.
select u.contact_id, u.remote
  from unnest($2::text[], $3::text[]) u (contact_id, remote)
 where u.remote::jsonb <> '{}' and exists (
       select 1 from syncd.mirror m
        where m.destination_id = $1::int and m.contact_id <> u.contact_id
          and m.remote @> u.remote::jsonb and m.state <> 'absent');

-- name: is_anothers
select exists (select 1 from syncd.mirror m
                where m.destination_id = $1::int and m.contact_id <> $2::text
                  and m.remote @> any($3::text[]::jsonb[]) and m.state <> 'absent')
       or exists (select 1 from syncd.mirror m
                   where m.destination_id = $1::int and m.contact_id = any($4::text[]))
       or exists (select 1 from syncd.journal j
                   where j.destination_id = $1::int and j.contact_id = any($4::text[]));

-- name: remember_remote
-- A look-up found a record that was in doubt: its id is written down before anything else is done,
-- and the lists that the tries may have left it in: the journal may forget them with the doubt. Any
-- field ($9, each with an empty value) may have been filled by them, and must be cleared if need be.
-- In which of the lists it is nobody has said, so missing there is no news. Whom a try has turned on
-- is on: a no that is met later was said since.
with u as materialized (
    select * from unnest($2::text[], $3::text[], $4::boolean[], $5::text[], $6::text[], $7::text[],
                         $8::boolean[])
                  u (contact_id, email, subscribed, remote, lists, told, turned_on)
), rows as materialized (
    select j.contact_id from syncd.journal j
     where j.destination_id = $1::int and j.contact_id = any($2::text[])
     order by j.contact_id
       for no key update
), unsure as (
    update syncd.journal j
       set left_lists = j.left_lists || array(select l from unnest(u.lists::text[]) l
                                               where not l = any(coalesce(m.lists, '{}')))
      from rows
      join u on u.contact_id = rows.contact_id
      left join syncd.mirror m
        on m.destination_id = $1::int and m.contact_id = rows.contact_id
     where j.destination_id = $1::int and j.contact_id = rows.contact_id
    returning j.contact_id
)
insert into syncd.mirror as m
       (destination_id, contact_id, email, subscribed, digest, state, remote, lists, fields)
select $1::int, u.contact_id, coalesce(u.told, m.email, u.email), u.subscribed, null, 'here',
       u.remote::jsonb, u.lists::text[], $9::jsonb
  from u
  left join unsure on unsure.contact_id = u.contact_id  -- the journal first (races 19)
  left join syncd.mirror m on m.destination_id = $1::int and m.contact_id = u.contact_id
 order by u.contact_id
on conflict (destination_id, contact_id) do update
   set email = excluded.email, remote = excluded.remote, digest = null, lists = excluded.lists,
       fields = excluded.fields || jsonb_strip_nulls(m.fields),
       subscribed = m.subscribed
                    or (select u.turned_on from u where u.contact_id = excluded.contact_id),
       state = case when m.state = 'absent' then 'here' else m.state end;

-- name: off_meanwhile
-- Which of these were noted as off while a change was in flight that said nothing of mail, and at
-- which address; at one that was exchanged, and not sent since, nothing is off yet.
select contact_id,
       case when digest is distinct from '00000000-0000-0000-0000-000000000000'::uuid
            then email end as email
  from syncd.mirror
 where destination_id = $1::int and contact_id = any($2::text[]) and not subscribed
 order by contact_id
   for no key update;

-- name: mail_off
-- Mail is off there, or may be: the provider has just said so, or the answer to a silence was lost.
-- Said before any opt_out row is touched. A row whose address was exchanged, and has not been sent
-- since, still says so: it is off at the record, but perhaps not at the address that it is to get.
with off as materialized (
    select m.contact_id from syncd.mirror m
     where m.destination_id = $1::int and m.contact_id = any($2::text[]) and m.subscribed
     order by m.contact_id
       for no key update
)
update syncd.mirror m
   set subscribed = false,
       digest = case when m.digest = '00000000-0000-0000-0000-000000000000'::uuid then m.digest end
 where m.destination_id = $1::int and m.contact_id = any(array(select o.contact_id from off o));

-- name: opt_out
-- A newer no replaces the older one: consent may lie between them. None was said later than now.
insert into syncd.opt_out as o
       (destination_id, contact_id, email, list_id, kind, occurred_at, evidence)
select $1::int, u.contact_id, u.email, u.list_id, u.kind,
       case when u.occurred_at is not null then least(u.occurred_at, now()) end,
       u.evidence::jsonb
  from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[])
       u (contact_id, email, list_id, kind, occurred_at, evidence)
on conflict (destination_id, coalesce(email_hash, ''), coalesce(contact_id, ''),
             coalesce(list_id, ''), kind) where lifted_at is null
do update set occurred_at = excluded.occurred_at, observed_at = excluded.observed_at,
              evidence = excluded.evidence
    where coalesce(excluded.occurred_at, excluded.observed_at)
          > coalesce(o.occurred_at, o.observed_at);

-- name: deliver
insert into syncd.delivery (destination_id, contact_id, kind, outcome, status, error, attempt)
select $1::int, u.*
  from unnest($2::text[], $3::text[], $4::text[], $5::int[], $6::text[], $7::int[]) u;

-- name: tally_here
insert into syncd.tally (destination_id, kind, n) values ($1::int, 'here', $2::bigint);

-- name: begin_worker
insert into syncd.worker (host, pid, version, alive_until)
values ($1::text, $2::int, $3::text, now() + make_interval(secs => $4::float8))
returning id;

-- name: heartbeat
-- A worker whose lease ran out is not revived: others may have taken its work over.
update syncd.worker set alive_until = now() + make_interval(secs => $2::float8)
 where id = $1::bigint and alive_until > now()
returning id;

-- name: end_worker
delete from syncd.worker where id = $1::bigint;

-- name: end_sessions
-- Sessions of processes whose lease ran out, in transactions begun before it did, are ended. A
-- process that stands still keeps its locks for ever while the server has more for it to read: no
-- timeout ends that. Nobody whose name a live worker has, too, is meant (a container begun anew).
select count(pg_terminate_backend(a.pid)) as ended
  from (select host, pid, max(alive_until) as until from syncd.worker group by host, pid) w
  join pg_stat_activity a on a.application_name = left(format('syncd %s@%s', w.pid, w.host), 63)
 where w.until <= now() and a.xact_start < w.until
   and a.datname = current_database() and a.usename = session_user;

-- name: orphaned
-- Rows and windows whose worker is dead, or gone from the table.
select distinct j.claimed_by as worker, j.destination_id
  from syncd.journal j
 where j.state = 'sent'
   and not exists (select 1 from syncd.worker w where w.id = j.claimed_by and w.alive_until > now())
union
select distinct i.claimed_by, i.destination_id
  from syncd.intent i
 where not exists (select 1 from syncd.worker w where w.id = i.claimed_by and w.alive_until > now());

-- name: in_hand
-- Where a worker has rows or windows in flight.
select j.claimed_by as worker, j.destination_id
  from syncd.journal j
 where j.state = 'sent' and j.claimed_by = $1::bigint
union
select i.claimed_by, i.destination_id from syncd.intent i where i.claimed_by = $1::bigint;

-- name: reap
-- Doubtful, and what the mirror says of them unknown; in smaller batches after every crash ($4; a
-- worker that was stopped has not crashed). What a plan still holds is not freed by this. Where only
-- what a lost try had left at another address was taken away, the record that is known is as it was.
with size as materialized (
    select claim, count(*) as n from syncd.journal
     where claimed_by = $2::bigint and state = 'sent' and destination_id = $1::int
     group by claim
), rows as materialized (
    select j.destination_id, j.contact_id, greatest(1, (size.n + 1) / 2) as half, size.n
      from syncd.journal j join size using (claim)
     where j.claimed_by = $2::bigint and j.state = 'sent' and j.destination_id = $1::int
     order by j.destination_id, j.contact_id
       for update of j
), freed as (
    update syncd.journal j
       set state = case when $4::boolean and j.crashes >= $3::int and rows.n = 1 then 'rejected'
                        when syncd.plan_waits(j.plan_id) then 'held' else 'due' end,
           claimed_by = null, again = false, doubtful = true,
           crashes = j.crashes + $4::boolean::int, due_at = now(),
           batch_cap = case when $4::boolean and j.crashes >= 1 then rows.half
                            else j.batch_cap end,
           last_error = case when not $4::boolean then 'the worker that had it was stopped'
                             when j.crashes >= $3::int and rows.n = 1
                             then 'rejected after ' || (j.crashes + 1) || ' crashes with it alone'
                             else 'the worker that had it died' end
      from rows
     where j.destination_id = rows.destination_id and j.contact_id = rows.contact_id
    returning j.contact_id,
              j.digest is null and not exists (
                  select 1 from syncd.mirror m
                   where m.destination_id = j.destination_id and m.contact_id = j.contact_id
                     and m.state <> 'absent' and m.email <> j.holds) as removal,
              j.digest is not null and j.lane = 0 as silence
), unknown as (
    update syncd.mirror m set digest = null
     where m.destination_id = $1::int
       and m.contact_id = any(array(select f.contact_id from freed f))
)
select count(*) as n, coalesce(array_agg(contact_id) filter (where removal), '{}') as removals,
       coalesce(array_agg(contact_id) filter (where silence), '{}') as silences
  from freed;

-- name: next_due
-- Seconds until the next due row; null: none. Lane by lane, so that an index tells.
select extract(epoch from min(first.due_at) - clock_timestamp())::float8
  from generate_series(0, 3) l (lane)
 cross join lateral (
     select j.due_at from syncd.journal j
      where j.destination_id = $1::int and j.lane = l.lane and j.state = 'due'
      order by j.due_at
      limit 1) first;
