-- name: begin
-- `claims`: how many claims were made before anything of the window is read.
insert into syncd.intent (destination_id, claim, lo, hi, claimed_by)
values ($1::int, nextval('syncd.claim_number'), $2::text, $3::text, $4::bigint)
returning claim, (select last_value from syncd.claims_made) as claims;

-- name: lock
select claim, (select last_value from syncd.claims_made) as claims
  from syncd.intent where destination_id = $1::int and claim = $2::bigint
   for update;

-- name: contested
-- Which of a window's addresses are in flight for somebody, or stand on a mirror row: since the
-- window was read a claim may have come and gone that gave one of them to another contact.
with mine as materialized (
    select array_agg(s.email) as emails from syncd.staged s where s.claim = $2::bigint
)
select f.holds as email, f.contact_id from syncd.journal f
 where f.destination_id = $1::int and f.state = 'sent'
   and f.holds = any((select m.emails from mine m)::text[])
union all
select h.email, h.contact_id from syncd.mirror h
 where h.destination_id = $1::int and h.email = any((select m.emails from mine m)::text[]);

-- name: leave_out
delete from syncd.staged where claim = $1::bigint and contact_id = any($2::text[]);

-- name: fill
-- What is about to be sent, on disk before the first request leaves.
update syncd.intent i
   set ids = s.ids, addresses = s.addresses, lists = $3::text[]
  from (select array_agg(s.contact_id) as ids, array_agg(s.email) as addresses
          from syncd.staged s where s.claim = $2::bigint) s
 where i.destination_id = $1::int and i.claim = $2::bigint;

-- name: beside
-- Journal rows that were written of a window's contacts while it was in flight, in the order every
-- writer takes (races 19); `plan`: the state of the plan that asked for them.
select j.contact_id, false as ours, j.again, j.state,
       (select p.state from syncd.plan p where p.id = j.plan_id) as plan
  from syncd.journal j
 where j.destination_id = $1::int
   and j.contact_id = any(array(
           select s.contact_id from syncd.staged s where s.claim = $2::bigint)::text[])
 order by j.contact_id
   for no key update of j;

-- name: settle
-- Everybody who was acknowledged without a further word, all but $3, becomes a mirror row; the
-- window ends. `staged` says how many there were: PostgreSQL forgets them when it crashes. Without
-- ON CONFLICT, which would cost a quarter more: that there is no such row yet has been looked up.
with staged as (
    delete from syncd.staged where claim = $2::bigint
    returning contact_id, email, fields, lists, remote, digest
), here as (
    insert into syncd.mirror
           (destination_id, contact_id, email, fields, lists, subscribed, digest, state, remote,
            pushed_at)
    select $1::int, s.contact_id, s.email, s.fields, s.lists, true, s.digest, 'here', s.remote,
           now()
      from staged s
     where s.contact_id <> all($3::text[])
     order by s.contact_id
    returning 1
), counted as (
    insert into syncd.tally (destination_id, kind, n)
    select $1::int, 'here', count(*) from here having count(*) > 0
), ended as (
    delete from syncd.intent where destination_id = $1::int and claim = $2::bigint
)
select count(*) as staged from staged;

-- name: finish
-- Nothing of this window is in flight any more.
with gone as (
    delete from syncd.staged where claim = $2::bigint
)
delete from syncd.intent where destination_id = $1::int and claim = $2::bigint;

-- name: left_behind
-- Whether a worker that is dead had a window of this destination in flight.
select exists (
    select 1 from syncd.intent i
     where i.destination_id = $1::int
       and not exists (select 1 from syncd.worker w
                        where w.id = i.claimed_by and w.alive_until > now()));

-- name: orphaned
select claim, ids, addresses, lists from syncd.intent
 where destination_id = $1::int and claimed_by = $2::bigint
 order by claim
   for update;

-- name: doubt
-- What a dead worker's window was about to send: due and doubtful, whatever the source says now.
insert into syncd.journal as j
       (destination_id, contact_id, wish, lane, state, doubtful, email, sent_lists, last_error)
select $1::int, u.contact_id, 'upsert', 3, 'due', true, u.email, $4::text[],
       'the worker that had it died'
  from unnest($2::text[], $3::text[]) u (contact_id, email)
 order by u.contact_id
on conflict (destination_id, contact_id) do update
   set doubtful = true, again = j.state = 'sent',
       email = case when j.state = 'sent' then j.email else excluded.email end,
       sent_lists = j.sent_lists || excluded.sent_lists,
       state = case when j.state in ('rejected', 'held') then 'due' else j.state end;
