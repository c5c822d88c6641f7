-- name: declare
-- The limits as last known. A change of rate makes promised places void and ends the wait for
-- what was granted at the old rate, as soon as nothing granted before can still be under way.
insert into syncd.meter as m
       (scope, meter, per_second, in_flight, per_day, read_share, lane0_share)
values ($1::text, $2::text, $3::float8, $4::int, $5::bigint, $6::float8, $7::float8)
on conflict (scope, meter) do update
   set per_second = excluded.per_second, in_flight = excluded.in_flight,
       per_day = excluded.per_day, read_share = excluded.read_share,
       lane0_share = excluded.lane0_share,
       epoch = m.epoch + (m.per_second is distinct from excluded.per_second)::int,
       tat = case when m.per_second is distinct from excluded.per_second
                  then least(m.tat, clock_timestamp() + interval '50 ms'
                             + syncd.lasting(greatest(0.025, 1 / excluded.per_second)))
                  else m.tat end,
       read_tat = case when m.per_second is distinct from excluded.per_second
                       then least(m.read_tat, clock_timestamp() + interval '50 ms'
                                  + syncd.lasting(greatest(0.025, 1 / excluded.per_second)))
                       else m.read_tat end
 where (m.per_second, m.in_flight, m.per_day, m.read_share, m.lane0_share) is distinct from
       (excluded.per_second, excluded.in_flight, excluded.per_day,
        excluded.read_share, excluded.lane0_share);

-- name: draw
select d.permits, d.wait, d.slots, d.expires, d.epoch, d.day, d.why
  from syncd.draw($1::text, $2::text, $3::text, $4::text, $5::int, $6::float8, $7::int, $8::int[],
                  $9::int[], $10::float8, $11::bigint, $12::date, $13::float8, $14::int,
                  $15::bigint) d;

-- name: give_back
-- Only as they were taken: one that expired meanwhile may be somebody else's, or ours again.
update syncd.slot s set holder = '', expires_at = '-infinity'
  from unnest($4::int[], $5::timestamptz[]) as done (n, expires_at)
 where s.scope = $1::text and s.meter = $2::text and s.holder = $3::text
   and s.n = done.n and s.expires_at = done.expires_at;

-- name: hold_off
-- What the provider asked for; a shorter wait never replaces a longer one.
insert into syncd.meter as m (scope, meter, not_before, epoch)
values ($1::text, $2::text, clock_timestamp() + syncd.lasting($3::float8), 1)
on conflict (scope, meter) do update
   set not_before = greatest(m.not_before, excluded.not_before), epoch = m.epoch + 1;

-- name: budget
-- next_at: of writes; null if one could start now.
select case when b.per_day is not null then b.per_day - b.used end as left_today,
       case when b.free_at > b.now then b.free_at end as next_at,
       (select count(*) from syncd.slot s
         where s.scope = b.scope and s.meter = b.meter and s.expires_at > b.now) as in_flight,
       case when b.not_before > b.now then extract(epoch from b.not_before - b.now)::float8
            else 0 end as hold
  from (select m.scope, m.meter, m.per_day, m.not_before, u.used, t.now,
               greatest(m.not_before, m.tat,
                        case when u.used >= greatest(1, floor(m.per_day * (1 - m.lane0_share)))
                                  and m.per_day is not null
                             then (m.day + 1)::timestamp at time zone 'UTC' end) as free_at
          from syncd.meter m
         cross join (select clock_timestamp() as now offset 0) t
         cross join lateral (
               select case when m.day = (t.now at time zone 'UTC')::date then m.used_today
                           else 0 end as used) u
         where m.scope = $1::text and m.meter = $2::text) b;
