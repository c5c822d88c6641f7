-- name: wanted
-- Lists that the source has and this destination is to have, as they are now; $2 ids, $3 names.
-- A list that left the source stays (its members leave) unless `when_list_gone` says delete ($4).
with wanted as (
    select u.list_id, u.name from unnest($2::text[], $3::text[]) u (list_id, name)
), made as (
    insert into syncd.list_mirror as l (destination_id, list_id, name)
    select $1::int, w.list_id, w.name from wanted w
     order by w.list_id
    on conflict (destination_id, list_id) do update
       set name = excluded.name, wanted = 'present',
           state = case when l.state in ('sent', 'asks') then l.state else 'due' end,
           due_at = now()
     where l.wanted <> 'present' or l.name <> excluded.name
    returning 1
), left_over as (
    update syncd.list_mirror l
       set wanted = 'absent', due_at = now(),
           state = case when l.state = 'sent' then 'sent'
                        when $4::boolean and l.remote_id is not null then 'due'
                        else 'in step' end
     where l.destination_id = $1::int and l.wanted = 'present'
       and not exists (select 1 from wanted w where w.list_id = l.list_id)
    returning 1
)
select (select count(*) from made) + (select count(*) from left_over);

-- name: claim
-- $3: only what is to be looked for; nothing is made, renamed or removed yet.
with due as (
    select l.destination_id, l.list_id from syncd.list_mirror l
     where l.destination_id = $1::int and l.state = 'due' and l.due_at <= now()
       and (not $3::boolean or (l.remote_id is null and l.wanted = 'present'))
     order by l.list_id
       for update skip locked
)
update syncd.list_mirror l
   set state = 'sent', claim = nextval('syncd.claim_number'), claimed_by = $2::bigint,
       attempts = l.attempts + 1
  from due
 where l.destination_id = due.destination_id and l.list_id = due.list_id
returning l.list_id, l.name, l.remote_id, l.wanted, l.doubtful, l.claim, l.attempts, l.last_error;

-- name: settle
-- A list that was renamed or left the source meanwhile is due again. Who is in a list that was
-- found, not made ($11), has to be read before it is written to.
update syncd.list_mirror l
   set state = case when $4::text = 'in step' and (l.name <> $8::text or l.wanted <> $9::text)
                    then 'due' else $4::text end,
       remote_id = case when $9::text = 'absent' and $4::text = 'in step' then null
                        else coalesce($5::text, l.remote_id) end,
       last_error = $6::text, doubtful = $10::boolean,
       due_at = now() + make_interval(secs => $7::float8), claimed_by = null,
       pushed_at = case when $4::text = 'in step' then now() else l.pushed_at end,
       scanned_at = case when $11::boolean then now()
                         when $5::text is distinct from l.remote_id and $5::text is not null
                         then null else l.scanned_at end,
       attempts = case when $4::text = 'in step' then 0 else l.attempts end
 where l.destination_id = $1::int and l.list_id = $2::text and l.claim = $3::bigint
   and l.state = 'sent'
returning l.list_id;

-- name: any_due
-- Whether one is due, or was in the hands of a worker that died.
select exists (
    select 1 from syncd.list_mirror l
     where l.destination_id = $1::int
       and ((l.state = 'due' and l.due_at <= now())
            or (l.state = 'sent' and not exists (
                    select 1 from syncd.worker w
                     where w.id = l.claimed_by and w.alive_until > now()))));

-- name: reap
update syncd.list_mirror l
   set state = 'due', claimed_by = null, doubtful = true, due_at = now(),
       last_error = 'the worker that had it died'
 where l.state = 'sent'
   and not exists (select 1 from syncd.worker w where w.id = l.claimed_by and w.alive_until > now());

-- name: ids
-- Lists that contacts may be put into; where who is in them can be read ($2), those that were.
select list_id, remote_id from syncd.list_mirror
 where destination_id = $1::int and remote_id is not null and wanted = 'present'
   and state <> 'asks' and (scanned_at is not null or not $2::boolean);

-- name: there
-- Lists that can be read; one that left the source, too, as long as it has members to leave it.
select list_id, remote_id from syncd.list_mirror
 where destination_id = $1::int and remote_id is not null and state <> 'asks'
 order by list_id;

-- name: unread
select list_id from syncd.list_mirror
 where destination_id = $1::int and remote_id is not null and wanted = 'present'
   and state <> 'asks' and scanned_at is null;

-- name: taken
-- Which of our lists are kept in these remote ones.
select list_id, remote_id from syncd.list_mirror
 where destination_id = $1::int and remote_id is not null;

-- name: now
select clock_timestamp();

-- name: looked_at
-- What a look at the account ($2 remote ids, $3 their names) says of lists in step: one that is gone
-- is a person's to decide, one that was renamed there is renamed back. The look was begun at $5; of
-- what was made or renamed since, or so shortly before that it need not show, it says nothing.
update syncd.list_mirror l
   set state = case when u.name is null then 'asks' else 'due' end,
       last_error = case when u.name is null then $4::text || l.remote_id else l.last_error end,
       due_at = now()
  from syncd.list_mirror k
  left join unnest($2::text[], $3::text[]) u (remote_id, name) on u.remote_id = k.remote_id
 where l.destination_id = $1::int and l.state = 'in step' and l.wanted = 'present'
   and l.remote_id is not null
   and k.destination_id = l.destination_id and k.list_id = l.list_id
   and u.name is distinct from l.name
   and (l.pushed_at is null or l.pushed_at < $5::timestamptz - make_interval(secs => $6::float8))
returning l.list_id, l.state;

-- name: refused_for
-- Whoever was refused with lists ($2) that are gone waits for them from now on: that may be why.
with rows as materialized (
    select j.contact_id from syncd.journal j
     where j.destination_id = $1::int and j.state = 'rejected' and j.sent_lists && $2::text[]
     order by j.contact_id
       for update
)
update syncd.journal j set state = 'due', due_at = now(), digest = null
  from rows
 where j.destination_id = $1::int and j.contact_id = rows.contact_id;

-- name: names
-- Changes with every list that is made, renamed or removed there; null while one is being.
select case when not coalesce(bool_or(state = 'sent' and remote_id is not null), false)
            then coalesce(max(pushed_at), '-infinity')::text || ' ' || count(*) end
  from syncd.list_mirror
 where destination_id = $1::int;

-- name: forget
-- A list that was removed there: nobody can be met in it, nor missed.
with gone as (
    delete from syncd.seen where destination_id = $1::int and list_key = $2::text
)
delete from syncd.missing where destination_id = $1::int and list_key = $2::text;

-- name: begun_anew
-- A list that a person had made again is empty: who was in it is put into it again.
with left_it as (
    update syncd.mirror m set lists = array_remove(m.lists, $2::text), digest = null
     where m.destination_id = $1::int and m.lists @> array[$2::text]
), forgotten as (
    delete from syncd.seen where destination_id = $1::int and list_key = $2::text
), excused as (
    delete from syncd.missing where destination_id = $1::int and list_key = $2::text
)
update syncd.feed set owes_full = true where destination_id = $1::int;
