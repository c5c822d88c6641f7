-- name: begin
insert into syncd.scan (destination_id, feed, claimed_by) values ($1::int, $2::text, $3::bigint)
returning id, clock_timestamp() as started_at;

-- name: latest
-- Where the last finished reading of this feed stood.
select cursor ->> 'until' as until
  from syncd.scan
 where destination_id = $1::int and feed = $2::text and finished_at is not null and error is null
 order by id desc
 limit 1;

-- name: finish
update syncd.scan
   set finished_at = clock_timestamp(), cursor = $2::jsonb, counts = $3::jsonb, error = $4::text
 where id = $1::bigint;

-- name: stamp
update syncd.feed set read_at = now() where destination_id = $1::int;

-- name: lock_told
-- The mirror rows that `note` may change, before any opt_out row is touched (races 19).
select m.contact_id from syncd.mirror m
 where m.destination_id = $1::int
   and (m.contact_id = any($2::text[])
        or m.email = any(array(select lower(btrim(e)) from unnest($3::text[]) e)))
 order by m.contact_id
   for no key update;

-- name: note
-- Opt-outs that a provider told of. What we did ourselves (the mirror says so) is no observation,
-- nor is an event that was lifted since; an address is the one told, else the mirror's. A newer no
-- replaces the older one (consent may lie between them), and the mirror learns that mail is off.
-- Of what was our own doing, the last event is remembered (`seen`): the next reading may bring it
-- again, when mail has long been turned on. $9: whether it was the person's own act (null: not told);
-- $10: whether the time told is that of the record, which our own writes move. Nothing was said later
-- than now, by this server's clock: a worker's may be behind, and its noes older than consent.
with told as (
    select distinct u.contact_id, u.email, u.kind, u.list_id, u.evidence, u.by_person, u.of_record,
                    case when u.occurred_at is not null then least(u.occurred_at, now())
                    end as occurred_at
      from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::timestamptz[], $7::text[],
                  $9::boolean[], $10::boolean[])
           u (contact_id, email, kind, list_id, occurred_at, evidence, by_person, of_record)
), known as (
    select coalesce(m.contact_id, told.contact_id) as contact_id,
           coalesce(lower(btrim(told.email)), m.email) as email,
           encode(sha256(convert_to(coalesce(lower(btrim(told.email)), m.email), 'UTF8')), 'hex')
               as hash,
           told.kind, told.list_id, told.evidence, told.by_person, told.of_record,
           -- the event itself may be known: told again, now of a contact, it is no younger for that
           least(told.occurred_at,
                 (select min(o.occurred_at) from syncd.opt_out o
                   where o.destination_id = $1::int and o.kind = told.kind
                     and o.list_id is not distinct from told.list_id
                     and o.email_hash = encode(sha256(convert_to(
                             coalesce(lower(btrim(told.email)), m.email), 'UTF8')), 'hex')
                     and o.evidence ->> 'ts' = told.evidence::jsonb ->> 'ts')) as occurred_at,
           m.state, m.subscribed, m.pushed_at, m.held_off
      from told
      left join lateral (
          select x.contact_id, x.email, x.state, x.subscribed, x.pushed_at,
                 x.state <> 'absent' and (  -- of whom nothing was sent, nothing is our own doing
                     not x.subscribed or exists (  -- it cannot be turned on there any more
                         select 1 from unnest(x.lacking) l where l like 'subscription%'))
                     as held_off
            from syncd.mirror x
           where x.destination_id = $1::int
             and (x.contact_id = told.contact_id
                  or (told.contact_id is null and x.email = lower(btrim(told.email))))
           order by x.subscribed desc, x.contact_id  -- who is mailed there, not who was before
           limit 1) m on true
), weighed as materialized (
    select k.*,
           exists (  -- mail may have been turned on meanwhile, but not by a claim that waits for
                     -- this very reading ($8)
               select 1 from syncd.journal j
                where j.destination_id = $1::int and j.contact_id = k.contact_id
                  and (j.doubtful or (j.state = 'sent' and j.claim is distinct from $8::bigint)))
               as in_flight,
           exists (  -- mail may be off by an older no, which newer consent or a person who lifts it
                     -- can undo: what is younger is nothing that we did
               select 1 from syncd.opt_out o
                where o.destination_id = $1::int and o.kind = k.kind and o.list_id is null
                  and (o.email_hash = k.hash or o.contact_id = k.contact_id)
                  and coalesce(o.occurred_at, o.observed_at) < k.occurred_at
                  and (o.lifted_at is null or o.lifted_at < k.occurred_at)
                  and coalesce(o.evidence ->> 'ts' < (k.evidence::jsonb ->> 'ts') collate "C",
                               k.evidence::jsonb ->> 'ts' is null)) as undone,
           k.of_record and exists (  -- a no that is open needs no younger time by a write of ours:
                                     -- consent may lie between the two
               select 1 from syncd.opt_out o
                where o.destination_id = $1::int and o.kind = k.kind and o.list_id is null
                  and (o.email_hash = k.hash or o.contact_id = k.contact_id)
                  and o.lifted_at is null
                  and coalesce(o.occurred_at, o.observed_at) < k.occurred_at)
               and k.occurred_at between k.pushed_at - interval '30 s'
                                     and k.pushed_at + interval '3 s' as by_our_write
      from known k
), judged as materialized (
    select k.*,
           k.kind = 'unsubscribed' and k.list_id is null
           and case when k.by_person is false and (k.held_off or k.in_flight)
                    then true  -- who is in flight is read again
                    when k.held_off is not true or k.in_flight then false
                    when k.by_our_write then true
                    when k.occurred_at is null then k.by_person is not true
                    else not k.subscribed and k.by_person is not true and not k.undone
                         and k.occurred_at >= k.pushed_at end as ours
      from weighed k
), remembered as (
    insert into syncd.seen as s (destination_id, list_key, remote_id, status, scan_id)
    select $1::int, 'our own opt-outs', k.contact_id, max(k.evidence::jsonb ->> 'ts' collate "C"), 0
      from judged k
     where k.ours and k.evidence::jsonb ->> 'ts' is not null
     group by k.contact_id
     order by k.contact_id
    on conflict (destination_id, list_key, remote_id) do update set status = excluded.status
        where s.status collate "C" < excluded.status
), news as (
    select distinct on (k.email, k.contact_id, k.list_id, k.kind)
           k.*
      from judged k
     where not k.ours
       and not exists (
           select 1 from syncd.seen s
            where s.destination_id = $1::int and s.list_key = 'our own opt-outs'
              and s.remote_id = k.contact_id and k.kind = 'unsubscribed' and k.list_id is null
              and (k.evidence::jsonb ->> 'ts') collate "C" <= s.status)
       and not exists (  -- `ts`: the provider's own clock, all digits. What moment that means may
                         -- differ from one reading to the next; which event came first does not
           select 1 from syncd.opt_out o
            where o.destination_id = $1::int and o.kind = k.kind
              and o.list_id is not distinct from k.list_id
              and (o.email_hash = k.hash or (k.hash is null and o.contact_id = k.contact_id))
              and (((k.evidence::jsonb ->> 'ts') collate "C" <= o.evidence ->> 'ts'
                    and o.contact_id is not distinct from k.contact_id)
                   or (o.lifted_at is not null
                       and (o.occurred_at = k.occurred_at or k.occurred_at <= o.lifted_at))))
     order by k.email, k.contact_id, k.list_id, k.kind, k.occurred_at desc,
              k.evidence::jsonb ->> 'ts' desc nulls last
), noted as (
    insert into syncd.opt_out as o
           (destination_id, contact_id, email, list_id, kind, occurred_at, evidence)
    select $1::int, n.contact_id, n.email, n.list_id, n.kind, n.occurred_at, n.evidence::jsonb
      from news n
     where (n.contact_id is not null or n.email is not null)
    on conflict (destination_id, coalesce(email_hash, ''), coalesce(contact_id, ''),
                 coalesce(list_id, ''), kind) where lifted_at is null
    do update set occurred_at = excluded.occurred_at, observed_at = excluded.observed_at,
                  evidence = excluded.evidence
        where excluded.occurred_at > coalesce(o.occurred_at, o.observed_at)
           or (excluded.occurred_at is null and exists (
                   select 1 from syncd.mirror m
                    where m.destination_id = o.destination_id
                      and m.contact_id = excluded.contact_id
                      and m.subscribed and m.pushed_at > o.observed_at))
    returning o.contact_id, o.email, o.kind, o.list_id
), off as (
    update syncd.mirror m
       set subscribed = false,  -- as `mail_off`
           digest = case when m.digest = '00000000-0000-0000-0000-000000000000'::uuid
                         then m.digest end
      from noted n
     where m.destination_id = $1::int and m.subscribed
       and m.email = n.email  -- whoever has it; said at another address, it may not hold at theirs
       and n.list_id is null and n.kind in ('unsubscribed', 'complained')
)
select contact_id, email from noted;

-- name: refused_since
-- Who, by contact or address, has an open all-mail opt-out observed since then.
select contact_id, email from syncd.opt_out
 where destination_id = $1::int and lifted_at is null and list_id is null
   and observed_at >= $2::timestamptz;

-- name: account
select identity, findings, credential_hash from syncd.account where scope = $1::text;

-- name: learn
-- What a reading found out before this credential was learned about stays.
insert into syncd.account as a (scope, identity, findings, credential_hash, learned_at)
values ($1::text, $2::text, $3::jsonb, $4::text, now())
on conflict (scope) do update
   set identity = excluded.identity, learned_at = excluded.learned_at,
       findings = case when a.credential_hash is null then a.findings else '{}' end
                  || excluded.findings,
       credential_hash = excluded.credential_hash
returning findings;

-- name: found_out
-- What an adapter found out beside `learn`. Of another credential nothing is kept; a row without a
-- credential is of one that has not been learned about yet.
insert into syncd.account as a (scope, findings) values ($1::text, $2::jsonb)
on conflict (scope) do update
   set findings = case when a.credential_hash is null or a.credential_hash = $3::text
                       then a.findings else '{}' end || excluded.findings,
       credential_hash = case when a.credential_hash = $3::text then a.credential_hash end;

-- name: translate
select remote ->> $2::text as name, contact_id
  from syncd.mirror
 where destination_id = $1::int and remote ->> $2::text = any($3::text[]);
