-- The providers' limits, held over all processes: rate, requests in flight, requests a day.
-- Every decision is one statement, is made under the meter's row lock and by the database's
-- clock (clock_timestamp(): it is read after the lock, so waiters decide by the time they got it).

-- One budget that a provider counts by. `tat` and `read_tat` are the two GCRA clocks (theoretical
-- arrival times: when what was granted so far is paid for) of writing and of reading; see
-- syncd.place. `epoch` rises when places promised for later are void: the rate was changed, or
-- the provider said to wait. The row is one of few and is rewritten at every draw: nearly empty
-- pages keep its versions on the page (HOT), and vacuum does not wait for a share (races 27).
create table syncd.meter (
    scope text not null,
    meter text not null,
    per_second float8 check (per_second > 0),
    in_flight int check (in_flight > 0),
    per_day bigint check (per_day > 0),
    read_share float8 not null default 0.2 check (read_share > 0 and read_share < 1),
    lane0_share float8 not null default 0.1 check (lane0_share >= 0 and lane0_share < 1),
    tat timestamptz not null default '-infinity',
    read_tat timestamptz not null default '-infinity',
    write_wanted_until timestamptz not null default '-infinity',
    read_wanted_until timestamptz not null default '-infinity',
    slot_wanted_until timestamptz not null default '-infinity',
    slot_wanted_by text not null default '',
    slot_wanted_with int not null default 0,
    not_before timestamptz not null default '-infinity',
    day date not null default '-infinity',
    used_today bigint not null default 0 check (used_today >= 0),
    epoch int not null default 0,
    primary key (scope, meter)
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_threshold = 10000);

-- Permits for requests in flight. A row is somebody's until `expires_at`, and free after it: it
-- outlives a killed holder by the request timeout, because the request may be under way as long.
create table syncd.slot (
    scope text not null,
    meter text not null,
    n int not null check (n > 0),
    holder text not null default '',
    expires_at timestamptz not null default '-infinity',
    primary key (scope, meter, n)
) with (fillfactor = 25, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_threshold = 10000);

-- Seconds rounded up to the clock's microsecond, so that rounding never makes a rate faster.
create function syncd.lasting(p_seconds float8) returns interval
language sql immutable set search_path = pg_catalog, pg_temp as $$
    select make_interval(secs => ceil(p_seconds * 1e6) / 1e6)
$$;

-- How many of p_want permits the rate allows in one draw, and when they may be used.
--
-- The rate is split into two lanes that never lend silently: reading has read_share of it,
-- everything else the rest, each lane a GCRA of its own. A draw of n permits takes the whole rate
-- when the other lane has not asked for a second: n / per_second is then paid on both clocks. Else
-- it takes its own lane alone, for n / (per_second * share). So either lane has its share whatever
-- the other does, both together never exceed the rate, and one that is alone has all of it.
-- A draw covers at most 25 ms of its rate (but one permit at least), usable for p_lapse seconds;
-- what p_lapse exceeds `free` by is paid for as well. Hence in any t seconds at most
--     per_second * (t + free) + max(1, per_second * 0.025)
-- requests start, one more while reads and writes both run. `free` is 25 ms, for slow rates a tenth
-- of the time between two requests, but not above 250 ms: there a place that is missed by a busy
-- machine costs seconds. So the burst is 50 ms' worth from 40 per second on, and below 2.
-- Places are promised in the order of asking, so nobody who asks is starved by who asks more.
create function syncd.place(
    m syncd.meter, p_at timestamptz, p_read boolean, p_want bigint, p_lapse float8,
    out permits bigint, out starts timestamptz, out tat timestamptz, out read_tat timestamptz)
language plpgsql immutable set search_path = pg_catalog, pg_temp as $$
declare
    share float8 := case when p_read then m.read_share else 1 - m.read_share end;
    rate float8 := m.per_second * share;
    mine timestamptz := greatest(p_at, case when p_read then m.read_tat else m.tat end);
    jointly timestamptz := greatest(p_at, m.read_tat, m.tat);
    alone boolean := p_at >= case when p_read then m.write_wanted_until
                                  else m.read_wanted_until end;
    free float8 := greatest(0.025, least(0.25, 0.1 / m.per_second));
    extra float8 := greatest(0, p_lapse - free);
begin
    tat := m.tat;
    read_tat := m.read_tat;
    starts := p_at;
    permits := p_want;
    if p_want = 0 or m.per_second is null then
        return;
    end if;
    permits := least(p_want, greatest(1, floor(m.per_second * 0.025)));
    if alone and jointly + syncd.lasting(permits / m.per_second)
                 <= mine + syncd.lasting(permits / rate) then
        starts := jointly;
        tat := jointly + syncd.lasting(permits / m.per_second + extra);
        read_tat := tat;
        return;
    end if;
    starts := mine;
    permits := least(p_want, greatest(1, floor(rate * 0.025)));
    if p_read then
        read_tat := mine + syncd.lasting(permits / rate + extra);
    else
        tat := mine + syncd.lasting(permits / rate + extra);
    end if;
end $$;

-- Take up to p_seats free slots; the caller holds the meter's row lock, so counting is safe.
-- Slots above a lowered limit count until their holders give them back, but are not given out.
-- One slot is left to whoever found none while holding no more of them than p_holder does now
-- (p_has): so they go round, and even out. While both kinds are wanted and the limit allows it,
-- the uppermost read_share of the slots (rounded down) is for reads alone, the rest for writes.
create function syncd.take_slots(
    m syncd.meter, p_at timestamptz, p_holder text, p_read boolean, p_has int, p_seats int,
    p_lasts float8)
returns int[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    reserved int := floor(m.in_flight * m.read_share);
    first int := 1;
    last int := m.in_flight;
    left_to_others int := 0;
    taken int[];
begin
    if p_read and m.write_wanted_until > p_at and reserved > 0 then
        first := m.in_flight - reserved + 1;
    elsif not p_read and m.read_wanted_until > p_at then
        last := m.in_flight - reserved;
    end if;
    if m.slot_wanted_until > p_at and m.slot_wanted_by <> p_holder and m.slot_wanted_with <= p_has
       and (reserved = 0 or m.slot_wanted_by like '%/read' = p_read) then
        left_to_others := 1;
    end if;
    with live as (
        select s.n from syncd.slot s
         where s.scope = m.scope and s.meter = m.meter and s.expires_at > p_at
    ), open as (
        select g.n, count(*) over () as number from generate_series(first, last) g (n)
         where not exists (select from live where live.n = g.n)
    ), free as (
        select open.n from open
         order by case when p_read then -open.n else open.n end
         limit (select greatest(0, least(p_seats, coalesce(max(open.number), 0) - left_to_others,
                                         m.in_flight - (select count(*) from live)
                                         - left_to_others)) from open)
    ), put as (
        insert into syncd.slot (scope, meter, n, holder, expires_at)
        select m.scope, m.meter, free.n, p_holder, p_at + syncd.lasting(p_lasts) from free
        on conflict on constraint slot_pkey do update
           set holder = excluded.holder, expires_at = excluded.expires_at
        returning n
    )
    select coalesce(array_agg(put.n), '{}') into taken from put;
    return taken;
end $$;

-- Slots of p_holder that it does not know of (its answer was lost, its use is over) become free;
-- those in p_renewed that are still its own last p_lasts from now. Returns the renewed ones.
create function syncd.sort_slots(
    m syncd.meter, p_at timestamptz, p_holder text, p_held int[], p_renewed int[], p_lasts float8)
returns int[]
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    kept int[];
begin
    update syncd.slot s set holder = '', expires_at = '-infinity'
     where s.scope = m.scope and s.meter = m.meter and s.holder = p_holder
       and s.n <> all(p_held);
    if cardinality(p_renewed) = 0 then
        return '{}';
    end if;
    with renewed as (
        update syncd.slot s set expires_at = p_at + syncd.lasting(p_lasts)
         where s.scope = m.scope and s.meter = m.meter and s.holder = p_holder
           and s.n = any(p_renewed) and s.expires_at > p_at
        returning s.n)
    select coalesce(array_agg(renewed.n), '{}') into kept from renewed;
    return kept;
end $$;

-- The one way to a permit: rate, day, hold-off and slots in one decision, or nothing of it.
--
-- p_want permits (0: only look, renew and give back), p_seats slots (0: the caller has one, or
-- there is no limit). p_back permits of p_back_day were not used. The limits are the caller's
-- view; the smaller of it and of the row holds. No row: no such meter yet (see `declare`).
-- why: '' granted, to be used from `wait` seconds on; else nothing was reserved, ask again after
-- `wait`: 'slot' all in flight, 'day' quota used up, 'held' not_before, 'rate' a minute ahead.
create function syncd.draw(
    p_scope text, p_meter text, p_holder text, p_purpose text, p_want int, p_lapse float8,
    p_seats int, p_held int[], p_renewed int[], p_lasts float8,
    p_back bigint, p_back_day date, p_per_second float8, p_in_flight int, p_per_day bigint)
returns table (permits int, wait float8, slots int[], expires timestamptz, epoch int, day date,
               why text)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    m syncd.meter;
    was syncd.meter;
    place record;
    reads boolean := p_purpose = 'read';
    moment timestamptz;
    midnight timestamptz;
    due timestamptz;
    left_today bigint;
begin
    select * into m from syncd.meter x
     where x.scope = p_scope and x.meter = p_meter for no key update;
    if not found then
        return;
    end if;
    moment := clock_timestamp();
    m.per_second := least(m.per_second, p_per_second);
    m.in_flight := least(m.in_flight, p_in_flight);
    m.per_day := least(m.per_day, p_per_day);
    was := m;
    if m.day < (moment at time zone 'UTC')::date then
        m.day := (moment at time zone 'UTC')::date;
        m.used_today := 0;
    elsif m.day = p_back_day then
        m.used_today := greatest(0, m.used_today - p_back);
    end if;
    midnight := (m.day + 1)::timestamp at time zone 'UTC';
    left_today := m.per_day - m.used_today;
    if p_purpose <> 'opt_out' and m.per_day is not null then
        left_today := greatest(1, floor(m.per_day * (1 - m.lane0_share))) - m.used_today;
    end if;
    slots := '{}';
    if m.in_flight is not null then
        slots := syncd.sort_slots(m, moment, p_holder, p_held, p_renewed, p_lasts);
    end if;
    place := syncd.place(m, moment, reads, greatest(0, least(p_want, left_today)),
                         p_lapse);
    due := place.starts;
    permits := 0;
    why := '';
    if m.not_before > moment then
        why := 'held';
        due := m.not_before;
    elsif p_want > 0 and (left_today <= 0 or m.per_day is not null
                          and place.starts + syncd.lasting(p_lapse) >= midnight) then
        why := 'day';
        due := midnight;
    elsif place.starts > moment + interval '1 minute' then
        why := 'rate';
    elsif p_seats > 0 and m.in_flight is not null then
        slots := slots || syncd.take_slots(
            m, moment, p_holder, reads, cardinality(p_held),
            least(p_seats, case when p_want > 0 then place.permits else p_seats end)::int, p_lasts);
        if cardinality(slots) = 0 then
            why := 'slot';
            due := moment + interval '25 ms';
        end if;
        if cardinality(slots) > 0 and m.slot_wanted_by = p_holder then
            m.slot_wanted_until := '-infinity';
        elsif why = 'slot' and (m.slot_wanted_until <= moment or m.slot_wanted_by = p_holder
                                or m.slot_wanted_with > cardinality(p_held)) then
            m.slot_wanted_until := moment + interval '100 ms';
            m.slot_wanted_by := p_holder;
            m.slot_wanted_with := cardinality(p_held);
        end if;
    end if;
    if why = '' and p_want > 0 then
        permits := place.permits;
        m.tat := place.tat;
        m.read_tat := place.read_tat;
        m.used_today := m.used_today + permits;
    end if;
    if why in ('', 'slot') and reads then
        m.read_wanted_until := greatest(m.read_wanted_until, due + interval '1 second');
    elsif why in ('', 'slot') then
        m.write_wanted_until := greatest(m.write_wanted_until, due + interval '1 second');
    end if;
    if m is distinct from was then
        update syncd.meter x
           set tat = m.tat, read_tat = m.read_tat, write_wanted_until = m.write_wanted_until,
               read_wanted_until = m.read_wanted_until, slot_wanted_until = m.slot_wanted_until,
               slot_wanted_by = m.slot_wanted_by, slot_wanted_with = m.slot_wanted_with,
               day = m.day, used_today = m.used_today
         where x.scope = p_scope and x.meter = p_meter;
    end if;
    wait := extract(epoch from due - moment);
    epoch := m.epoch;
    day := m.day;
    expires := moment + syncd.lasting(p_lasts);
    return next;
end $$;
