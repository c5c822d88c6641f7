-- name: sent
-- Told to a destination ($1): which pieces, and what is needed to read back what was done.
with told as (
    select distinct on (u.contact_id) u.contact_id, u.email, u.remote::jsonb as remote
      from unnest($2::text[], $3::text[], $4::text[]) u (contact_id, email, remote)
), meant as (
    select e.id, e.erasure_id, t.contact_id, t.email, t.remote
      from syncd.erasing e
      join told t
        on t.contact_id = 'erasure ' || e.id or t.email = e.email
        or (t.contact_id = e.contact_id
            and e.source = (select d.source from syncd.destination d where d.id = $1::int))
), done as (
    update syncd.erasing e set done = e.done || $1::int
     where e.id in (select m.id from meant m) and not $1::int = any(e.done)
), records as (
    select m.erasure_id, jsonb_agg(distinct jsonb_strip_nulls(jsonb_build_object(
               'contact_id', m.contact_id, 'email', m.email, 'remote', m.remote))) as list
      from meant m
     group by m.erasure_id
)
update syncd.erasure r
   set proof = jsonb_set(r.proof, array[d.name],
           coalesce(r.proof -> d.name, '{}') - array['confirmed_at', 'waiting_until', 'by_hand']
           || jsonb_build_object(
               'sent_at', now(),
               'records', coalesce(r.proof -> d.name -> 'records', '[]') || records.list))
  from records, syncd.destination d
 where r.id = records.erasure_id and d.id = $1::int;

-- name: open
-- Requests that are not finished, with what is known of whom they are about in a source ($1).
select e.erasure_id,
       array_agg(e.contact_id) filter (where e.source = $1::text) as ids,
       array_agg(e.email) filter (where e.email is not null) as emails,
       r.email as named,
       case when r.source = $1::text
            then array(select jsonb_array_elements_text(r.result -> 'known')) else '{}' end as known
  from syncd.erasing e
  join syncd.erasure r on r.id = e.erasure_id and r.purged_at is null
 group by e.erasure_id, r.source, r.email, r.result
 order by e.erasure_id;

-- name: known
-- Under which addresses a destination ($1) knows these contacts, and whom under these addresses.
select m.contact_id, m.email from syncd.mirror m
 where m.destination_id = $1::int and (m.contact_id = any($2::text[]) or m.email = any($3::text[]))
union
select j.contact_id, j.email from syncd.journal j
 where j.destination_id = $1::int and j.email is not null
   and (j.contact_id = any($2::text[]) or j.email = any($3::text[]));

-- name: found
-- More contacts, or addresses, of the person.
with contacts as (
    insert into syncd.erasing (erasure_id, source, contact_id)
    select $1::bigint, $2::text, u.contact_id from unnest($3::text[]) u (contact_id)
    on conflict do nothing
    returning id
), addresses as (
    insert into syncd.erasing (erasure_id, email)
    select $1::bigint, u.email from unnest($4::text[]) u (email)
    on conflict do nothing
    returning id
)
select (select count(*) from contacts) + (select count(*) from addresses);

-- name: shared
-- An address of the person stays, because somebody else has it who was not named.
update syncd.erasure set result = result || jsonb_build_object('shares_an_address_with', $2::text[])
 where id = $1::bigint and result -> 'shares_an_address_with' is distinct from to_jsonb($2::text[]);

-- name: untold
-- Pieces that this destination ($1, of source $2) is still to be told, by journal id and address.
select case when e.email is null then e.contact_id else 'erasure ' || e.id end as contact_id, e.email
  from syncd.erasing e
 where not $1::int = any(e.done) and (e.email is not null or e.source = $2::text)
 order by 1;

-- name: plan
-- What the feed has told already, mostly; not where it was dropped, or the destination is new.
insert into syncd.journal as j (destination_id, contact_id, wish, lane, state)
select $1::int, u.contact_id, 'remove', 0, 'due'
  from unnest($2::text[]) u (contact_id)
 order by u.contact_id
on conflict (destination_id, contact_id) do update
   set wish = 'remove', lane = 0, plan_id = null, again = j.state = 'sent',
       due_at = case when j.state in ('sent', 'due') then j.due_at else now() end,
       state = case when j.state in ('sent', 'rejected') then j.state else 'due' end
 where j.lane <> 0 or j.wish <> 'remove' or j.state = 'held';

-- name: strangers
-- Records that scans of the destination have met under these addresses, and that are not ours.
select s.list_key, s.remote_id, s.email, l.remote_id as remote_list
  from syncd.seen s
  left join syncd.list_mirror l on l.destination_id = s.destination_id and l.list_id = s.list_key
 where s.destination_id = $1::int and s.email = any($2::text[]) and s.contact_id is null
 order by s.email, s.list_key, s.remote_id;

-- name: remember_stranger
-- So that it can be told apart, by the piece that stands for its address.
insert into syncd.mirror (destination_id, contact_id, email, lists, subscribed, state, remote)
values ($1::int, $2::text, $3::text, $4::text[], true, 'withdrawn', $5::jsonb)
on conflict do nothing;

-- name: unconfirmed
-- Of which a destination ($1) was told everything, and that are to be read back by now; $2: seconds
-- until a write can be read.
select r.id, r.proof -> d.name -> 'records' as records,
       (r.proof -> d.name ->> 'sent_at')::timestamptz as sent_at
  from syncd.erasure r
  join syncd.destination d on d.id = $1::int
 where r.finished_at is null and r.proof ? d.name
   and not r.proof -> d.name ?| array['confirmed_at', 'by_hand']
   and coalesce((r.proof -> d.name ->> 'waiting_until')::timestamptz <= now(), true)
   and (r.proof -> d.name ->> 'sent_at')::timestamptz <= now() - make_interval(secs => $2::float8)
   and not exists (select 1 from syncd.erasing e
                    where e.erasure_id = r.id and (e.email is not null or e.source = d.source)
                      and not d.id = any(e.done))
 order by r.id;

-- name: note
update syncd.erasure r
   set proof = jsonb_set(r.proof, array[d.name],
                         (r.proof -> d.name) - 'waiting_until' || $3::jsonb)
  from syncd.destination d
 where r.id = $1::bigint and d.id = $2::int and r.proof ? d.name;

-- name: any_open
select exists (select 1 from syncd.erasure where finished_at is null);

-- name: ready
-- Of which every destination was told, and has been read back as far as can be; `is_over`: nowhere
-- anything is waited for. What is in flight under one of the ids or addresses ends first; so does
-- the move of another contact whose record is, or after a lost try may be, there under one of them:
-- forgotten now, that record would stay. Where that move is refused, a person ends it.
select r.id, r.purged_at is not null as is_purged,
       not exists (select 1 from jsonb_each(r.proof) p where p.value ? 'waiting_until') as is_over
  from syncd.erasure r
 where r.finished_at is null
   and not exists (
       select 1
         from syncd.destination d
         join syncd.erasing e on e.erasure_id = r.id and (e.email is not null or e.source = d.source)
        where not d.id = any(e.done)
           or not coalesce(r.proof -> d.name ?| array['confirmed_at', 'waiting_until', 'by_hand'],
                           false))
   and not exists (
       select 1
         from syncd.erasing e
         join syncd.journal j on j.state = 'sent'
                             and (j.contact_id = e.contact_id or j.email = e.email
                                  or j.holds = e.email or j.contact_id = 'erasure ' || e.id)
        where e.erasure_id = r.id)
   and not exists (
       select 1
         from syncd.erasing e
         join syncd.mirror m on m.email = e.email and m.state in ('here', 'adopted')
         join syncd.journal j on j.destination_id = m.destination_id
                             and j.contact_id = m.contact_id
        where e.erasure_id = r.id
          and (j.state <> 'rejected'
               or not exists (select 1 from syncd.erasing o
                               where o.erasure_id = r.id and o.contact_id = j.contact_id)))
   and not exists (
       select 1
         from syncd.erasing e
         join syncd.journal j on j.email = e.email and j.doubtful and j.state in ('due', 'held')
        where e.erasure_id = r.id)
   and not exists (
       select 1
         from syncd.erasing e
         join syncd.intent i on e.contact_id = any(i.ids) or e.email = any(i.addresses)
        where e.erasure_id = r.id)
   and (r.purged_at is null
        or not exists (select 1 from jsonb_each(r.proof) p where p.value ? 'waiting_until'))
 order by r.id;

-- name: lock_feeds
select destination_id from syncd.feed order by destination_id for no key update;

-- name: lock_ready
-- Another worker may have been as quick.
select r.id from syncd.erasure r
 where r.id = any($1::bigint[]) and r.finished_at is null
 order by r.id
   for update;

-- name: pieces
select e.id, e.erasure_id, e.source, e.contact_id, e.email
  from syncd.erasing e
 where e.erasure_id = any($1::bigint[])
 order by e.id;

-- name: bury
insert into syncd.tombstone (hash, key_id, erasure_id)
select u.hash, $3::text, u.erasure_id
  from unnest($1::text[], $2::bigint[]) u (hash, erasure_id)
 order by u.hash
on conflict (hash) do nothing;

-- name: whose
-- At which destinations the ids mean somebody ($1 sources, $2 ids, in parallel).
select d.id as destination_id, u.contact_id
  from unnest($1::text[], $2::text[]) u (source, contact_id)
  join syncd.destination d on d.source = u.source
 order by 1, 2;

-- name: forget_journal
-- $1 destinations and $2 ids, in parallel; $3 addresses. Another contact's row only loses them.
with gone as (
    delete from syncd.journal j
     using unnest($1::int[], $2::text[]) u (destination_id, contact_id)
     where j.destination_id = u.destination_id and j.contact_id = u.contact_id
)
update syncd.journal j set email = null
 where j.email = any($3::text[])
   and not exists (select 1 from unnest($1::int[], $2::text[]) u (destination_id, contact_id)
                    where u.destination_id = j.destination_id and u.contact_id = j.contact_id);

-- name: forget_mirror
delete from syncd.mirror m
 where m.email = any($3::text[])
    or exists (select 1 from unnest($1::int[], $2::text[]) u (destination_id, contact_id)
                where u.destination_id = m.destination_id and u.contact_id = m.contact_id);

-- name: forget_sharers
delete from syncd.sharer m
 where m.email = any($3::text[])
    or exists (select 1 from unnest($1::int[], $2::text[]) u (destination_id, contact_id)
                where u.destination_id = m.destination_id and u.contact_id = m.contact_id);

-- name: hash_noes
-- $4: the tombstone of each address; $5: that of each contact, for a no that was told without one.
-- What is hashed says no more who said it: of several that are the same then, one is kept.
with mine as materialized (
    select o.id, coalesce(min(h.hash), min(u.hash)) as hash
      from syncd.opt_out o
      left join unnest($3::text[], $4::text[]) h (email, hash)
        on o.email_hash in (encode(sha256(convert_to(h.email, 'UTF8')), 'hex'), h.hash)
      left join unnest($1::int[], $2::text[], $5::text[]) u (destination_id, contact_id, hash)
        on (u.destination_id = o.destination_id and u.contact_id = o.contact_id)
        or o.email_hash = u.hash
     where h.hash is not null or u.hash is not null
     group by o.id
), placed as (
    select mine.*, row_number() over (
               partition by o.destination_id, o.list_id, o.kind, mine.hash
               order by o.lifted_at is null desc, o.observed_at desc, o.id desc) as place
      from mine
      join syncd.opt_out o on o.id = mine.id
), doubles as (
    delete from syncd.opt_out o using placed p where p.id = o.id and p.place > 1
)
update syncd.opt_out o
   set email = null, contact_id = null, email_hash = p.hash, evidence = '{}'
  from placed p
 where o.id = p.id and p.place = 1;

-- name: forget_seen
delete from syncd.seen s
 where lower(s.email) = any($3::text[])
    or exists (select 1 from unnest($1::int[], $2::text[]) u (destination_id, contact_id)
                where u.destination_id = s.destination_id
                  and (u.contact_id = s.contact_id
                       or (s.list_key = 'our own opt-outs' and s.remote_id = u.contact_id)));

-- name: forget_missing
delete from syncd.missing m
 using unnest($1::int[], $2::text[]) u (destination_id, contact_id)
 where m.destination_id = u.destination_id and m.contact_id = u.contact_id;

-- name: forget_deliveries
delete from syncd.delivery m
 using unnest($1::int[], $2::text[]) u (destination_id, contact_id)
 where m.destination_id = u.destination_id and m.contact_id = u.contact_id;

-- name: forget_changes
-- Of ids that are addresses themselves; another id says nothing, and the feed is trimmed anyhow.
delete from syncd.change c where lower(c.contact_id) = any($1::text[]);

-- name: blot_out
select syncd.blot_out($1::text[]);

-- name: purged
update syncd.erasure set purged_at = coalesce(purged_at, now()), result = result || $2::jsonb
 where id = $1::bigint;

-- name: finish
-- The request forgets the person too; what it has proven stays.
with pieces as (
    delete from syncd.erasing where erasure_id = any($1::bigint[])
)
update syncd.erasure r
   set finished_at = now(), contact_id = null, email = null, result = r.result - 'known',
       proof = (select coalesce(jsonb_object_agg(p.key, p.value - 'records'), '{}')
                  from jsonb_each(r.proof) p)
 where r.id = any($1::bigint[]);

-- name: tombs
select count(*) as n, coalesce(array_agg(distinct key_id), '{}') as keys from syncd.tombstone;

-- name: tombs_by_key
select key_id, count(*) as n from syncd.tombstone group by key_id;

-- name: buried
select hash, erasure_id, made_at from syncd.tombstone where hash = any($1::text[]);

-- name: status
-- Requests that are not finished; and, for a month, those that ask a person to do something.
-- `occupants`: other contacts whose record is at an address of the person's, and has yet to leave it.
select r.id, r.source, r.requested_at, r.purged_at, r.finished_at, r.proof, r.result,
       r.done_by_hand,
       array(select d.name from syncd.destination d
              where exists (select 1 from syncd.erasing e
                             where e.erasure_id = r.id
                               and (e.email is not null or e.source = d.source))
              order by d.name) as destinations,
       (select coalesce(jsonb_agg(distinct jsonb_build_object(
                   'destination', d.name, 'contact', j.contact_id,
                   'refused', j.state = 'rejected')), '[]')
          from syncd.erasing e
          join syncd.mirror m on m.email = e.email and m.state in ('here', 'adopted')
          join syncd.journal j on j.destination_id = m.destination_id
                              and j.contact_id = m.contact_id
          join syncd.destination d on d.id = m.destination_id
         where e.erasure_id = r.id and r.purged_at is null
           and not exists (select 1 from syncd.erasing o
                            where o.erasure_id = r.id and o.contact_id = j.contact_id)) as occupants
  from syncd.erasure r
 where r.finished_at is null
    or (r.finished_at > now() - interval '30 days'
        and (exists (select 1 from jsonb_each(r.proof) p
                      where p.value ? 'by_hand' and p.key <> all(r.done_by_hand))
             or jsonb_array_length(coalesce(r.result -> 'still_in', '[]')) > 0))
 order by r.id;
