-- name: exchange
-- Contact $2[i] takes the place of contact $3[i] at the provider: its address and, where the
-- record is not keyed by our own id ($4), the remote record with all that is in it, and when it was
-- written: a no that was said there before is not our own doing. What a scan that runs has met goes
-- with it, what was missed is asked anew; and so does the doubt that a lost answer left about that
-- record (not about one under another address, $5). Nothing happens while one of them is in flight,
-- or would have to remember two doubts, or another record beside the one that it is in doubt about:
-- that is looked for first. A contact without a mirror row takes the other's over entirely.
-- The digest is one that nothing has: it differs, and so is a change to the guard; null would be
-- taken for the repeat of something that was counted before.
with moves as materialized (
    select u.contact_id, u.of from unnest($2::text[], $3::text[]) u (contact_id, of)
), old as materialized (
    select m.* from syncd.mirror m
     where m.destination_id = $1::int
       and m.contact_id in (select contact_id from moves union select of from moves)
     order by m.contact_id
       for update
), doubts as materialized (
    select j.contact_id, j.email, j.sent_lists, j.left_lists, j.silenced,
           coalesce(case when $5::boolean then j.email = old.email else old.state <> 'absent' end,
                    false) as goes
      from syncd.journal j
      left join old on old.contact_id = j.contact_id  -- of a lost create nobody has a row
     where j.destination_id = $1::int and j.doubtful and $4::boolean
       and j.contact_id in (select contact_id from moves union select of from moves)
), busy as materialized (
    select 1 from syncd.journal j join moves on moves.contact_id = j.contact_id
     where j.destination_id = $1::int and (j.state = 'sent' or j.receipt is not null)
    union all
    select 1 from moves
      join doubts mine on mine.contact_id = moves.contact_id and not mine.goes
      join doubts comes on comes.contact_id = moves.of and comes.goes
    union all
    select 1 from moves
      join doubts mine on mine.contact_id = moves.contact_id and not mine.goes
      join old comes on comes.contact_id = moves.of and comes.state <> 'absent'
     where not $5::boolean
), new as materialized (
    select moves.contact_id, old.email, held.fields, held.lists, held.subscribed, held.state,
           held.remote, held.pushed_at, case when held.state = 'here'
                             then '00000000-0000-0000-0000-000000000000'::uuid end as digest
      from moves
      join old on old.contact_id = moves.of
      left join old mine on mine.contact_id = moves.contact_id
     cross join lateral (
         select old.fields, old.lists, old.subscribed, old.state, old.remote, old.pushed_at
          where $4::boolean or mine.contact_id is null
         union all
         select mine.fields, mine.lists, mine.subscribed, mine.state, mine.remote, mine.pushed_at
          where not $4::boolean and mine.contact_id is not null) held
     where not exists (select 1 from busy)
), doubted as (
    update syncd.journal j
       set doubtful = d.contact_id is not null, email = d.email, sent_lists = d.sent_lists,
           left_lists = d.left_lists, silenced = coalesce(d.silenced, false),
           -- what was refused said nothing of this record: nobody would wait for the end of a doubt
           state = case when d.contact_id is not null and j.state = 'rejected' then 'due'
                        else j.state end
      from moves
      left join doubts d on d.contact_id = moves.of and d.goes
     where j.destination_id = $1::int and j.contact_id = moves.contact_id
       and (d.contact_id is not null
            or exists (select 1 from doubts mine
                        where mine.contact_id = moves.contact_id and mine.goes))
       and exists (select 1 from new)
), in_doubt as (
    insert into syncd.journal (destination_id, contact_id, wish, lane, state, doubtful, email,
                               sent_lists, left_lists, silenced)
    select $1::int, moves.contact_id, 'upsert', 1, 'due', true, d.email, d.sent_lists, d.left_lists,
           d.silenced
      from moves
      join doubts d on d.contact_id = moves.of and d.goes
     where exists (select 1 from new)
       and not exists (select 1 from syncd.journal j
                        where j.destination_id = $1::int and j.contact_id = moves.contact_id)
), gone as (
    delete from syncd.mirror m
     using moves
     where m.destination_id = $1::int and m.contact_id = moves.of
       and not exists (select 1 from new n where n.contact_id = m.contact_id)
       and exists (select 1 from new)
), met as (
    update syncd.seen s set contact_id = moves.contact_id
      from moves, syncd.scan c
     where $4::boolean and c.destination_id = $1::int and c.feed = 'contacts'
       and c.finished_at is null and c.begun_at is not null
       and s.destination_id = $1::int and s.list_key = c.list_key and s.contact_id = moves.of
       and exists (select 1 from new)
), excused as (
    delete from syncd.missing x
     where x.destination_id = $1::int
       and x.contact_id in (select contact_id from moves union select of from moves)
       and exists (select 1 from new)
), kept as (
    insert into syncd.mirror as m (destination_id, contact_id, email, fields, lists, subscribed,
                                   state, remote, digest, pushed_at)
    select $1::int, n.contact_id, n.email, n.fields, n.lists, n.subscribed, n.state, n.remote,
           n.digest, n.pushed_at
      from new n
     order by n.contact_id
    on conflict (destination_id, contact_id) do update
       set email = excluded.email, fields = excluded.fields, lists = excluded.lists,
           subscribed = excluded.subscribed, remote = excluded.remote, state = excluded.state,
           digest = excluded.digest, pushed_at = excluded.pushed_at
    returning 1
)
select count(*)::int from kept;

-- name: part
-- A contact deleted and back with another address is somebody else (races 29): what the provider
-- has of the first one goes on under a name that nobody wants, and so is removed. Not while a
-- request is on its way, or was lost: it may have put the second one on the first one's record.
update syncd.mirror m
   set contact_id = m.contact_id || ' (gone ' || nextval('syncd.claim_number') || ')'
 where m.destination_id = $1::int and m.contact_id = any($2::text[])
   and not exists (select 1 from syncd.journal j
                    where j.destination_id = m.destination_id and j.contact_id = m.contact_id
                      and (j.state = 'sent' or j.doubtful))
returning m.contact_id, split_part(m.contact_id, ' (gone ', 1) as before;

-- name: note_gone
insert into syncd.change (source, contact_id, gone) select $1::text, unnest($2::text[]), true;

-- name: lock
-- The journal rows of everyone concerned, before a mirror row is touched (races 19): from here on
-- none of them is claimed, and who is in flight stays so.
select j.contact_id from syncd.journal j
 where j.destination_id = $1::int and j.contact_id = any($2::text[])
 order by j.contact_id
   for no key update;
