-- name: ask
-- A scan of these lists is wanted; asked for once per list, however many contacts wait for it.
insert into syncd.scan (destination_id, feed, list_key)
select distinct $1::int, 'contacts', u.list_key from unnest($2::text[]) u (list_key)
on conflict (destination_id, list_key) where feed = 'contacts' and finished_at is null do nothing;

-- name: wait
-- These contacts cannot be sent before their lists have been scanned; what was missed before is
-- no answer to them. The scan makes them due; should none come, they ask again after $4 seconds.
-- Who has waited $5 times, though nothing was in doubt, is for a person: the provider shows a record
-- that it does not know.
with u as materialized (
    select u.contact_id, array_agg(distinct u.list_key) as lists
      from unnest($2::text[], $3::text[]) u (contact_id, list_key)
     group by u.contact_id
), rows as materialized (
    select j.contact_id, j.waits_for, j.waited >= $5::int and not j.doubtful as over
      from syncd.journal j
     where j.destination_id = $1::int and j.contact_id = any(array(select contact_id from u))
       and j.state = 'due'
     order by j.contact_id
       for no key update
), forgotten as (
    delete from syncd.missing m
     using rows, u
     where m.destination_id = $1::int and m.contact_id = rows.contact_id and m.plan_id is null
       and u.contact_id = rows.contact_id and m.list_key = any(u.lists)
       and not m.list_key = any(coalesce(rows.waits_for, '{}'))
), marked as (
    update syncd.journal j
       set waits_for = case when not rows.over then u.lists end,
           waits_since = case when not rows.over then clock_timestamp() end,
           waited = j.waited + (not j.doubtful)::int,
           state = case when rows.over then 'rejected' else 'due' end,
           last_error = case when rows.over
                             then j.waited || ' scans told its id, which the provider does not know'
                             else j.last_error end,
           due_at = now() + make_interval(secs => $4::float8)
      from rows, u
     where j.destination_id = $1::int and j.contact_id = rows.contact_id
       and u.contact_id = j.contact_id
    returning j.waits_for
)
select distinct l.list_key from marked cross join unnest(marked.waits_for) l (list_key);

-- name: open
-- Scans to be run, those that were begun first. `urgent`: an opt-out or an erasure waits for it.
select s.id, s.list_key, s.begun_at is not null as begun,
       exists (select 1 from syncd.journal j
                where j.destination_id = s.destination_id and j.waits_for @> array[s.list_key]
                  and j.state = 'due' and j.lane = 0) as urgent
  from syncd.scan s
 where s.destination_id = $1::int and s.feed = 'contacts' and s.finished_at is null
   and (s.not_before is null or s.not_before <= clock_timestamp())
   and (s.claimed_by is null or s.claimed_by = $2::bigint
        or not exists (select 1 from syncd.worker w
                        where w.id = s.claimed_by and w.alive_until > now()))
 order by begun desc, urgent desc, s.id;

-- name: any_open
-- Scans to be run, or to be judged.
select exists (select 1 from syncd.scan
                where destination_id = $1::int and feed = 'contacts' and finished_at is null
                  and (not_before is null or not_before <= clock_timestamp()))
       or exists (select 1 from syncd.scan s
                   where s.destination_id = $1::int and s.feed = 'contacts'
                     and s.finished_at is not null and s.claimed_by is not null
                     and (s.claimed_by = $2::bigint
                          or not exists (select 1 from syncd.worker w
                                          where w.id = s.claimed_by and w.alive_until > now())));

-- name: unjudged
-- Scans that are over, and whose end told nobody who waits for it: who had them died at that moment.
select s.id from syncd.scan s
 where s.destination_id = $1::int and s.feed = 'contacts'
   and s.finished_at is not null and s.claimed_by is not null
   and (s.claimed_by = $2::bigint
        or not exists (select 1 from syncd.worker w
                        where w.id = s.claimed_by and w.alive_until > now()));

-- name: judged
update syncd.scan set claimed_by = null
 where id = any($1::bigint[]) and finished_at is not null;

-- name: give_up_old
-- A scan that stood still for long proves nothing any more: it is begun anew.
with old as (
    update syncd.scan s
       set finished_at = clock_timestamp(), error = 'interrupted for too long: begun anew'
     where s.destination_id = $1::int and s.feed = 'contacts' and s.finished_at is null
       and s.moved_at < now() - make_interval(secs => $2::float8)
       and (s.claimed_by is null
            or not exists (select 1 from syncd.worker w
                            where w.id = s.claimed_by and w.alive_until > now()))
    returning s.list_key
)
select list_key from old;

-- name: drop
-- Scans of lists that are not there, or not any more: nobody can be in them.
update syncd.scan s
   set finished_at = clock_timestamp(), error = 'the list is not kept there'
 where s.destination_id = $1::int and s.feed = 'contacts' and s.finished_at is null
   and s.list_key <> ''
   and not exists (select 1 from syncd.list_mirror k
                    where k.destination_id = $1::int and k.list_id = s.list_key
                      and k.remote_id is not null and k.state <> 'asks')
returning s.id;

-- name: begin
-- Claims of the destination take turns with this (`claim_turn`): while a request is in flight for
-- somebody in the list no scan begins, and while one runs nobody in the list is sent.
update syncd.scan s
   set claimed_by = $3::bigint, begun_at = coalesce(s.begun_at, clock_timestamp()),
       moved_at = clock_timestamp(), remote_id = $4::text
 where s.id = $2::bigint and s.destination_id = $1::int and s.finished_at is null
   and (s.claimed_by is null or s.claimed_by = $3::bigint
        or not exists (select 1 from syncd.worker w
                        where w.id = s.claimed_by and w.alive_until > now()))
   and (s.list_key = '' or not exists (
           select 1 from syncd.journal j
            where j.destination_id = $1::int and j.state = 'sent'
              and (j.sent_lists @> array[s.list_key] or exists (
                       select 1 from syncd.mirror m
                        where m.destination_id = $1::int and m.contact_id = j.contact_id
                          and m.lists @> array[s.list_key]))))
returning s.id, s.list_key, s.begun_at, s.cursor;

-- name: begun
-- Lists that have been read in part. `running`: by somebody at this moment, or until so recently
-- ($2 seconds) that he, or another, is about to go on.
select s.list_key,
       s.moved_at > now() - make_interval(secs => $2::float8)
       or exists (select 1 from syncd.worker w
                   where w.id = s.claimed_by and w.alive_until > now()) as running
  from syncd.scan s
 where s.destination_id = $1::int and s.feed = 'contacts' and s.finished_at is null
   and s.begun_at is not null;

-- name: give_up
-- These stand still, and their lists are about to be written to: whoever comes after a record that is
-- taken away moves up, onto pages that were read already. They are begun anew.
update syncd.scan s
   set finished_at = clock_timestamp(), error = 'written to before it was read: begun anew'
 where s.destination_id = $1::int and s.feed = 'contacts' and s.finished_at is null
   and s.begun_at is not null and s.list_key = any($2::text[])
returning s.list_key;

-- name: move
-- Null: another worker has taken the scan over.
update syncd.scan set cursor = $3::jsonb, moved_at = clock_timestamp()
 where id = $1::bigint and claimed_by = $2::bigint and finished_at is null
returning id;

-- name: leave
-- Over, and judged ($3); or somebody may go on with it: it stands where its cursor does. One that is
-- over and not judged stays with whoever ended it: `unjudged`.
update syncd.scan set claimed_by = null
 where id = $1::bigint and claimed_by = $2::bigint and ($3::boolean or finished_at is null);

-- name: fail
update syncd.scan set finished_at = clock_timestamp(), error = $2::text
 where id = $1::bigint and finished_at is null;

-- name: still_ours
-- Null: another worker has taken the scan over; else it cannot while this transaction lasts.
select id from syncd.scan
 where id = $1::bigint and claimed_by = $2::bigint and finished_at is null
   for share;

-- name: meet
-- Who was met is not missing, however this scan ends.
with found as (
    delete from syncd.missing
     where destination_id = $1::int and list_key = $2::text and contact_id = any($7::text[])
)
insert into syncd.seen as s
       (destination_id, list_key, remote_id, email, status, scan_id, contact_id)
select $1::int, $2::text, u.remote_id, u.email, u.status, $3::bigint, u.contact_id
  from unnest($4::text[], $5::text[], $6::text[], $7::text[])
       u (remote_id, email, status, contact_id)
 order by u.remote_id
on conflict (destination_id, list_key, remote_id) do update
   set email = excluded.email, status = excluded.status, scan_id = excluded.scan_id, missed = 0,
       contact_id = excluded.contact_id;

-- name: left
-- Of whom a page of the account has met ($3): who is not in a list ($4, $5) where the mirror has it.
-- What a try of ours was to leave, or could not join, is no news.
with u as materialized (
    select u.contact_id, u.list_key from unnest($4::text[], $5::text[]) u (contact_id, list_key)
), back as (
    delete from syncd.missing x
     where x.destination_id = $1::int and x.contact_id = any($3::text[]) and x.list_key <> ''
       and not exists (select 1 from u
                        where u.contact_id = x.contact_id and u.list_key = x.list_key)
)
insert into syncd.missing as x (destination_id, list_key, contact_id, scan_id, scans, since)
select $1::int, u.list_key, u.contact_id, $2::bigint,
       case when o.since > m.pushed_at then o.scans else 1 end,
       case when o.since > m.pushed_at then o.since else $6::timestamptz end
  from u
  join syncd.mirror m on m.destination_id = $1::int and m.contact_id = u.contact_id
  left join syncd.missing o
    on o.destination_id = $1::int and o.list_key = u.list_key and o.contact_id = u.contact_id
 where not exists (select 1 from unnest(m.lacking) l
                    where l = 'list:' || u.list_key or starts_with(l, 'list:' || u.list_key || ' '))
   and not exists (select 1 from syncd.journal j
                    where j.destination_id = $1::int and j.contact_id = u.contact_id
                      and (j.state = 'sent' or j.doubtful or j.receipt is not null
                           or j.left_lists @> array[u.list_key]))
 order by u.list_key, u.contact_id
on conflict (destination_id, list_key, contact_id) do update
   set scans = excluded.scans, scan_id = excluded.scan_id, since = excluded.since;

-- name: met_before
select remote_id, contact_id from syncd.seen
 where destination_id = $1::int and list_key = $2::text and remote_id = any($3::text[])
   and contact_id is not null;

-- name: met_now
-- Whom this scan has met already in another record ($5: those of the page, which may come twice).
select contact_id, remote_id from syncd.seen
 where destination_id = $1::int and list_key = $2::text and scan_id = $3::bigint
   and contact_id = any($4::text[]) and not remote_id = any($5::text[]);

-- name: mirrored
-- Locked: what is made of them is written next.
select m.contact_id, m.email, m.state, m.remote, m.lists, m.subscribed,
       m.pushed_at < $4::timestamptz as settled
  from syncd.mirror m
 where m.destination_id = $1::int
   and (m.contact_id = any($2::text[]) or m.email = any($3::text[]))
 order by m.contact_id
   for no key update;

-- name: tried
-- Whose request is in flight (as a job is until its end is known), or was never answered; by
-- contact, or by the address it was sent to. The rows of these contacts are locked whatever their
-- state: nobody is claimed, and settled, between this and what is written of them (races 19).
select j.contact_id, j.email, case when j.receipt is null then j.state else 'sent' end as state,
       j.doubtful,
       coalesce($4::text = any(j.waits_for), false) as waits
  from syncd.journal j
 where j.destination_id = $1::int
   and (j.contact_id = any($2::text[])
        or (j.doubtful and j.email = any($3::text[]))
        or ((j.state = 'sent' or j.receipt is not null) and j.holds = any($3::text[])))
 order by j.contact_id
   for no key update;

-- name: remember
-- What was met is written into the mirror. Rows that were not there before are counted.
with u as materialized (
    select u.contact_id, u.email, u.state, u.remote::jsonb as remote, u.lists::text[] as lists,
           u.subscribed, u.differs
      from unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::boolean[],
                  $8::boolean[])
           u (contact_id, email, state, remote, lists, subscribed, differs)
), before as materialized (
    select m.contact_id from syncd.mirror m
     where m.destination_id = $1::int and m.contact_id = any(array(select contact_id from u))
       and m.state in ('here', 'adopted')
), written as (
    insert into syncd.mirror as m
           (destination_id, contact_id, email, state, remote, lists, subscribed, digest)
    select $1::int, u.contact_id, u.email, u.state, u.remote, u.lists, u.subscribed, null
      from u
     order by u.contact_id
    on conflict (destination_id, contact_id) do update
       set email = excluded.email, state = excluded.state, remote = excluded.remote,
           lists = excluded.lists, subscribed = excluded.subscribed,
           digest = case when (select x.differs from u x where x.contact_id = m.contact_id)
                         then null else m.digest end
)
insert into syncd.tally (destination_id, kind, n)
select $1::int, 'here', count(*)
  from u
 where u.state in ('here', 'adopted')
   and not exists (select 1 from before b where b.contact_id = u.contact_id)
having count(*) > 0;

-- name: is_planned
select position is not null from syncd.feed where destination_id = $1::int;

-- name: last_missing
-- The next window of mirror ids.
select max(w.contact_id) as last
  from (select m.contact_id from syncd.mirror m
         where m.destination_id = $1::int and m.contact_id > $2::text
         order by m.contact_id
         limit $3::int) w;

-- name: miss
-- Who should be in the list, by the mirror, and was not met. What was written since the scan began,
-- or so shortly before ($7 seconds) that it could not be read yet, may lie on a page that had been
-- read: it is not missed, and what was missed before a write counts no more. What could not be
-- joined is no news either.
insert into syncd.missing as x (destination_id, list_key, contact_id, scan_id, scans, since)
select $1::int, $2::text, m.contact_id, $3::bigint,
       case when o.since > m.pushed_at then o.scans + (o.scan_id <> $3::bigint)::int else 1 end,
       case when o.since > m.pushed_at then o.since else $6::timestamptz end
  from syncd.mirror m
  left join syncd.missing o
    on o.destination_id = m.destination_id and o.list_key = $2::text
   and o.contact_id = m.contact_id
 where m.destination_id = $1::int and m.contact_id > $4::text and m.contact_id <= $5::text
   and m.state in ('here', 'adopted') and m.subscribed
   and ($2::text = '' or m.lists @> array[$2::text])
   and m.pushed_at < $6::timestamptz - make_interval(secs => $7::float8)
   and not exists (select 1 from unnest(m.lacking) l
                    where l = 'list:' || $2::text or starts_with(l, 'list:' || $2::text || ' '))
   and not exists (select 1 from syncd.seen s
                    where s.destination_id = $1::int and s.list_key = $2::text
                      and s.contact_id = m.contact_id and s.scan_id = $3::bigint)
   and not exists (select 1 from syncd.journal j
                    where j.destination_id = $1::int and j.contact_id = m.contact_id
                      and (j.state = 'sent' or (j.doubtful and j.waits_for is null)))
 order by m.contact_id
on conflict (destination_id, list_key, contact_id) do update
   set scans = excluded.scans, scan_id = excluded.scan_id, since = excluded.since;

-- name: miss_waiting
-- As `miss`, of those who wait for this scan, whatever the mirror knows of them.
insert into syncd.missing as x (destination_id, list_key, contact_id, scan_id, scans, since)
select $1::int, $2::text, j.contact_id, $3::bigint,
       case when o.since > coalesce(m.pushed_at, '-infinity')
            then o.scans + (o.scan_id <> $3::bigint)::int else 1 end,
       case when o.since > coalesce(m.pushed_at, '-infinity') then o.since
            else $4::timestamptz end
  from syncd.journal j
  left join syncd.mirror m
    on m.destination_id = j.destination_id and m.contact_id = j.contact_id
  left join syncd.missing o
    on o.destination_id = j.destination_id and o.list_key = $2::text
   and o.contact_id = j.contact_id
 where j.destination_id = $1::int and j.waits_for @> array[$2::text] and j.state = 'due'
   and (m.contact_id is null
        or m.pushed_at < $4::timestamptz - make_interval(secs => $5::float8))
   and not exists (select 1 from syncd.seen s
                    where s.destination_id = $1::int and s.list_key = $2::text
                      and s.contact_id = j.contact_id and s.scan_id = $3::bigint)
 order by j.contact_id
on conflict (destination_id, list_key, contact_id) do update
   set scans = excluded.scans, scan_id = excluded.scan_id, since = excluded.since;

-- name: excuse
-- Met again, or written meanwhile: two scans in a row must miss a contact. A scan of the account
-- speaks of its lists, too, where it does at all.
delete from syncd.missing
 where destination_id = $1::int and (list_key = $2::text or $2::text = '')
   and scan_id <> $3::bigint;

-- name: forget_seen
with gone as (
    delete from syncd.seen
     where destination_id = $1::int and list_key = $2::text and scan_id <> $3::bigint
       and missed >= 1
)
update syncd.seen set missed = missed + 1
 where destination_id = $1::int and list_key = $2::text and scan_id <> $3::bigint and missed < 1;

-- name: forget_members
-- Of lists that a scan of the account has told of.
delete from syncd.seen
 where destination_id = $1::int and scan_id <> $2::bigint
   and list_key in (select l.list_id from syncd.list_mirror l where l.destination_id = $1::int);

-- name: drift
-- What a whole scan found: records; those that are not ours (extra), that are, but not put there by
-- us (stray), or under another address; how many there should be, and how many of them are missing.
select count(*) as seen, count(*) filter (where s.contact_id is null) as extra,
       count(*) filter (where $2::text <> '' and m.state in ('here', 'adopted')
                          and not m.lists @> array[$2::text]) as stray,
       count(*) filter (where m.email <> s.email) as address_differs,
       (select count(*) from syncd.missing x
         where x.destination_id = $1::int and x.list_key = $2::text and x.scan_id = $3::bigint)
           as missing,
       (select count(*) from syncd.mirror e
         where e.destination_id = $1::int and e.state in ('here', 'adopted') and e.subscribed
           and ($2::text = '' or e.lists @> array[$2::text])) as expected
  from syncd.seen s
  left join syncd.mirror m
    on m.destination_id = s.destination_id and m.contact_id = s.contact_id
 where s.destination_id = $1::int and s.list_key = $2::text and s.scan_id = $3::bigint;

-- name: finish
update syncd.scan
   set finished_at = clock_timestamp(), counts = $3::jsonb, cursor = null
 where id = $1::bigint and claimed_by = $2::bigint and finished_at is null
returning id;

-- name: ask_again
-- Whoever was missed once is looked for a second time, at once: one scan proves no absence. A scan
-- that has itself confirmed others leaves who went meanwhile to the schedule: people always go.
-- Whoever waits, and of whom this scan ($3) could not say anything (written too late, or waiting too
-- late), waits for the next: which begins when what was written can be read ($4 seconds). $5: a scan
-- of the account tells who is in which list, too.
with missed as materialized (
    select exists (
        select 1 from syncd.missing x
         where x.destination_id = $1::int and x.scans = 1
           and (x.list_key = $2::text or ($5::boolean and $2::text = ''))
           and (not exists (select 1 from syncd.missing o
                             where o.destination_id = $1::int and o.scans >= 2
                               and (o.list_key = $2::text or ($5::boolean and $2::text = ''))
                               and o.plan_id is null)
                or exists (select 1 from syncd.journal j
                            where j.destination_id = $1::int and j.contact_id = x.contact_id
                              and j.waits_for @> array[$2::text]))) as any_of_them
), unanswered as materialized (
    select min(coalesce(m.pushed_at, '-infinity')) + make_interval(secs => $4::float8) as readable
      from syncd.journal j
      left join syncd.mirror m
        on m.destination_id = j.destination_id and m.contact_id = j.contact_id
     where j.destination_id = $1::int and j.waits_for @> array[$2::text] and j.state = 'due'
       and not exists (select 1 from syncd.seen s
                        where s.destination_id = $1::int and s.list_key = $2::text
                          and s.contact_id = j.contact_id and s.scan_id = $3::bigint)
       and not exists (select 1 from syncd.missing o
                        where o.destination_id = $1::int and o.list_key = $2::text
                          and o.contact_id = j.contact_id)
)
insert into syncd.scan (destination_id, feed, list_key, not_before)
select $1::int, 'contacts', $2::text,
       case when not missed.any_of_them and unanswered.readable > clock_timestamp()
            then unanswered.readable end
  from missed cross join unanswered
 where missed.any_of_them or unanswered.readable is not null
on conflict (destination_id, list_key) where feed = 'contacts' and finished_at is null do nothing;

-- name: stamp_list
update syncd.list_mirror set scanned_at = coalesce(scanned_at, now())
 where destination_id = $1::int and list_id = $2::text;

-- name: stamp_account
update syncd.feed set scanned_at = now() where destination_id = $1::int and scanned_at is null;

-- name: is_scanned
select scanned_at is not null from syncd.feed where destination_id = $1::int;

-- name: answer
-- Contacts whose lists have been scanned since they began to wait are due, and in doubt no more:
-- they were met, and their ids are written down, or two whole scans in a row have missed them. Who
-- should be there (no lost request was to take it away) and is not stays until that is judged (`syncd.absence`).
with latest as materialized (
    select distinct on (s.list_key) s.list_key, s.id, s.finished_at,
           (s.counts ->> 'seen')::bigint = 0 and (s.counts ->> 'expected')::bigint > 1 as suspect
      from syncd.scan s
     where s.destination_id = $1::int and s.feed = 'contacts' and s.finished_at is not null
       and s.error is null
     order by s.list_key, s.id desc
), rows as materialized (
    select j.contact_id, j.waits_for, j.waits_since, j.left_lists from syncd.journal j
     where j.destination_id = $1::int and j.waits_for is not null and j.state <> 'sent'
     order by j.contact_id
       for no key update
), answered as materialized (
    select r.contact_id, w.list_key, x.contact_id is not null as missing
      from rows r
     cross join unnest(r.waits_for) w (list_key)
      left join latest l on l.list_key = w.list_key and l.finished_at > r.waits_since
      left join syncd.missing x
        on x.destination_id = $1::int and x.list_key = w.list_key and x.scans >= 2
       and x.contact_id = r.contact_id and x.scan_id = l.id
     where (w.list_key <> '' and not exists (  -- nobody is in a list that is not there
               select 1 from syncd.list_mirror k
                where k.destination_id = $1::int and k.list_id = w.list_key
                  and k.remote_id is not null and k.state <> 'asks'))
        or exists (select 1 from syncd.seen s
                    where s.destination_id = $1::int and s.list_key = w.list_key
                      and s.contact_id = r.contact_id and s.scan_id = l.id)
        or (x.contact_id is not null and not l.suspect
            and not exists (select 1 from syncd.mirror m
                             where m.destination_id = $1::int and m.contact_id = r.contact_id
                               and m.state in ('here', 'adopted') and m.subscribed
                               and not w.list_key = any(coalesce(r.left_lists, '{}'))
                               and (w.list_key = '' or m.lists @> array[w.list_key])))
), ordered as materialized (
    select m.contact_id from syncd.mirror m
     where m.destination_id = $1::int
       and m.contact_id in (select a.contact_id from answered a where a.missing)
     order by m.contact_id
       for no key update
), left_it as (  -- it was to leave it, or to be silenced, and that did arrive
    update syncd.mirror m
       set lists = array(select l from unnest(m.lists) l
                          where not exists (select 1 from answered a
                                             where a.contact_id = m.contact_id and a.missing
                                               and a.list_key = l))
     where m.destination_id = $1::int
       and m.contact_id = any(array(select o.contact_id from ordered o))
       and exists (select 1 from answered a
                    where a.contact_id = m.contact_id and a.missing
                      and m.lists @> array[a.list_key])
), left_over as (
    select r.contact_id,
           array(select w from unnest(r.waits_for) w
                  where not exists (select 1 from answered a
                                     where a.contact_id = r.contact_id and a.list_key = w)) as lists
      from rows r
     where exists (select 1 from answered a where a.contact_id = r.contact_id)
), updated as (
    update syncd.journal j
       set waits_for = nullif(l.lists, '{}'),
           waits_since = case when l.lists <> '{}' then j.waits_since end,
           doubtful = j.doubtful and l.lists <> '{}',
           due_at = case when l.lists = '{}' then now() else j.due_at end
      from left_over l
     where j.destination_id = $1::int and j.contact_id = l.contact_id
    returning l.lists = '{}' as free
)
select count(*) filter (where free) from updated;
