-- name: destinations
select * from syncd.destination order by name;

-- name: pause
update syncd.destination
   set paused = $2::boolean, halted = case when $2::boolean then halted end
 where name = any($1::text[])
   and (paused <> $2::boolean or (not $2::boolean and halted is not null))
returning name;

-- name: halt
-- With the fingerprint of the credential it was working with ($3), if that may be the reason.
with halted as (
    update syncd.destination set halted = $2::text
     where id = $1::int and halted is null
    returning id
), noted as (
    update syncd.feed f set halted_with = $3::text from halted where f.destination_id = halted.id
)
select id from halted;

-- name: held_plans
-- One of which nothing is left asks nobody anything: the next pass that comes upon it ends it.
select h.id, h.destination, h.kind, h.rows, h.reason
  from (select p.id, d.name as destination, p.kind, p.reason,
               (select count(*) from syncd.journal j where j.plan_id = p.id and j.state = 'held')
               + (select count(distinct x.contact_id) from syncd.missing x where x.plan_id = p.id)
                   as rows
          from syncd.plan p
          join syncd.destination d on d.id = p.destination_id
         where p.state = 'held' and ($1::text[] is null or d.name = any($1::text[]))) h
 where h.rows > 0
 order by h.destination, h.id;

-- name: lock_feed_of_plan
-- Every pass locks its feed row first; so does a decision, so that no pass adds rows meanwhile.
select f.destination_id
  from syncd.plan p
  join syncd.feed f on f.destination_id = p.destination_id
 where p.id = $1::bigint
   for no key update of f;

-- name: held_plan
select p.id, (select count(*) from syncd.journal j where j.plan_id = p.id and j.state = 'held')
       + (select count(distinct x.contact_id) from syncd.missing x where x.plan_id = p.id) as rows
  from syncd.plan p
 where p.id = $1::bigint and p.state = 'held';

-- name: decide
update syncd.plan set state = $2::text, decided_at = now(), decided_by = $3::text
 where id = $1::bigint and state in ('open', 'held');

-- name: release
-- A block of what waits in decided plans becomes due; called until there is none.
with rows as materialized (
    select j.destination_id, j.contact_id
      from syncd.journal j
     where j.state = 'held'
       and j.plan_id in (select p.id from syncd.plan p where p.state in ('approved', 'released'))
     order by j.destination_id, j.contact_id
     limit 10000
       for no key update of j
), freed as (
    update syncd.journal j
       set state = 'due', due_at = now(), plan_id = null
      from rows
     where j.destination_id = rows.destination_id and j.contact_id = rows.contact_id
    returning 1
)
select count(*) from freed;

-- name: drop_held
-- A doubtful row is never dropped: it becomes due, and is looked up.
with rows as materialized (
    select destination_id, contact_id from syncd.journal
     where plan_id = $1::bigint and state = 'held'
     order by destination_id, contact_id
       for update
), kept as (
    update syncd.journal j
       set state = 'due', due_at = now(), wish = 'upsert'
      from rows
     where j.destination_id = rows.destination_id and j.contact_id = rows.contact_id and j.doubtful
), gone as (
    delete from syncd.journal j
     using rows
     where j.destination_id = rows.destination_id and j.contact_id = rows.contact_id
       and not j.doubtful
    returning 1
)
select count(*) from gone;

-- name: lift
-- By address; also what a provider told by contact alone ($4: the contacts that have the address).
with lifted as (
    update syncd.opt_out
       set lifted_at = now(), lifted_by = $3::text
     where lifted_at is null
       and (email_hash = encode(sha256(convert_to($1::text, 'UTF8')), 'hex')
            or email_hash = any($5::text[])
            or (email_hash is null and contact_id = any($4::text[])))
       and list_id is not distinct from $2::text
    returning id, destination_id, kind, list_id
), logged as (
    insert into syncd.control_log (relation, row_name, action, new)
    select 'opt_out', id::text, 'lift',
           jsonb_build_object('by', $3::text, 'kind', kind, 'list_id', list_id)
      from lifted
)
select id from lifted order by id;

-- name: exhume
-- Whoever was erased ($1: under these hashes) may be made again; what was refused meanwhile of the
-- contacts with the address ($3) is due.
with lifted as (
    delete from syncd.tombstone where hash = any($1::text[]) returning erasure_id
), logged as (
    insert into syncd.control_log (relation, row_name, action, new)
    select distinct 'erasure', erasure_id::text, 'lift', jsonb_build_object('by', $2::text)
      from lifted
), freed as (
    update syncd.journal j
       set state = 'due', due_at = now(), digest = null, attempts = 0
      from (select r.destination_id, r.contact_id from syncd.journal r
             where r.contact_id = any($3::text[]) and r.state = 'rejected'
             order by r.destination_id, r.contact_id
               for update) r
     where j.destination_id = r.destination_id and j.contact_id = r.contact_id
)
insert into syncd.change (source, contact_id)
select distinct d.source, u.contact_id
  from syncd.destination d, unnest($3::text[]) u (contact_id);

-- name: retry
with rows as materialized (
    select destination_id, contact_id from syncd.journal
     where destination_id = any($1::int[]) and state = 'rejected'
       and ($2::text[] is null or contact_id = any($2::text[]))
     order by destination_id, contact_id
       for update
), freed as (
    update syncd.journal j
       set state = 'due', due_at = now(), digest = null, attempts = 0, crashes = 0, waited = 0,
           batch_cap = null, lane = least(j.lane, 1)
      from rows
     where j.destination_id = rows.destination_id and j.contact_id = rows.contact_id
    returning 1
)
select count(*) from freed;

-- name: not_waiting
-- Of these contacts ($2), those of whom nothing is rejected or waits at any of the destinations.
select u.contact_id
  from unnest($2::text[]) u (contact_id)
 where not exists (select 1 from syncd.journal j
                    where j.destination_id = any($1::int[]) and j.contact_id = u.contact_id)
 order by 1;

-- name: list_is_known
select exists (select 1 from syncd.list_mirror where list_id = $1::text)
    or exists (select 1 from syncd.opt_out where list_id = $1::text);

-- name: retry_lists
with freed as (
    update syncd.list_mirror set state = 'due', due_at = now(), attempts = 0
     where destination_id = any($1::int[]) and state in ('rejected', 'asks')
    returning 1
)
select count(*) from freed;
