-- name: sources
-- Locked, so that what is shown as the difference is what is changed.
select s.name, (to_jsonb(s) - '{name,updated_at}'::text[])::text as columns
  from syncd.source s
 order by s.name
   for update;

-- name: destinations
select d.name, (to_jsonb(d) - '{id,name,halted,created_at,updated_at}'::text[])::text as columns
  from syncd.destination d
 order by d.name
   for update;

-- name: sources_as_they_are
select s.name, (to_jsonb(s) - '{name,updated_at}'::text[])::text as columns
  from syncd.source s
 order by s.name;

-- name: destinations_as_they_are
select d.name, (to_jsonb(d) - '{id,name,halted,created_at,updated_at}'::text[])::text as columns
  from syncd.destination d
 order by d.name;

-- name: destinations_of_sources
select * from syncd.destination where source = any($1::text[]) order by name;

-- name: keep_source
insert into syncd.source as s (name, contact, list, membership)
select $1::text, r.contact, r.list, r.membership
  from jsonb_to_record($2::jsonb) r (contact text, list text, membership text)
    on conflict (name) do update
   set contact = excluded.contact, list = excluded.list, membership = excluded.membership
 where (s.contact, s.list, s.membership)
       is distinct from (excluded.contact, excluded.list, excluded.membership);

-- name: keep_destination
-- A pause that is not spoken of stays: whoever pauses at night does not mend a file first.
insert into syncd.destination as d
      (name, provider, source, options, credential, fields, lists, everyone, when_gone,
       when_list_gone, schedule, read_schedule, full_schedule, per_second, in_flight, per_day,
       guard_percent, guard_floor, paused)
select $1::text, r.provider, r.source, r.options, r.credential, r.fields, r.lists, r.everyone,
       r.when_gone, r.when_list_gone, r.schedule, r.read_schedule, r.full_schedule, r.per_second,
       r.in_flight, r.per_day, r.guard_percent, r.guard_floor, coalesce(r.paused, false)
  from jsonb_to_record($2::jsonb) r
       (provider text, source text, options jsonb, credential text, fields jsonb, lists text[],
        everyone boolean, when_gone text, when_list_gone text, schedule text, read_schedule text,
        full_schedule text, per_second real, in_flight int, per_day int, guard_percent real,
        guard_floor int, paused boolean)
    on conflict (name) do update
   set provider = excluded.provider, source = excluded.source, options = excluded.options,
       credential = excluded.credential, fields = excluded.fields, lists = excluded.lists,
       everyone = excluded.everyone, when_gone = excluded.when_gone,
       when_list_gone = excluded.when_list_gone, schedule = excluded.schedule,
       read_schedule = excluded.read_schedule, full_schedule = excluded.full_schedule,
       per_second = excluded.per_second, in_flight = excluded.in_flight,
       per_day = excluded.per_day, guard_percent = excluded.guard_percent,
       guard_floor = excluded.guard_floor,
       paused = coalesce(($2::jsonb ->> 'paused')::boolean, d.paused)
 where to_jsonb(d) - '{id,name,halted,created_at,updated_at,paused}'::text[]
       is distinct from
       to_jsonb(excluded) - '{id,name,halted,created_at,updated_at,paused}'::text[]
    or d.paused <> ($2::jsonb ->> 'paused')::boolean;
