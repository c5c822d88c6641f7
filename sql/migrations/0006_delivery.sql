-- Deliveries are kept in a partition a day, so that forgetting a day costs nothing.

-- Makes the partitions of today and tomorrow (UTC), drops those of which every row is older than
-- p_keep days. Rows that came while nobody made partitions lie in delivery_other: they are moved.
create function syncd.keep_deliveries(p_keep int) returns int
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    today date := (now() at time zone 'UTC')::date;
    one date;
    old record;
    dropped int := 0;
begin
    perform pg_advisory_xact_lock(hashtextextended('syncd.keep_deliveries', 0));
    for one in select today + n from generate_series(0, 1) n loop
        continue when to_regclass(format('syncd.%I', 'delivery_' || to_char(one, 'YYYYMMDD')))
            is not null;
        create temporary table waiting on commit drop as
            select * from syncd.delivery_other
             where at >= one::timestamp at time zone 'UTC'
               and at < (one + 1)::timestamp at time zone 'UTC';
        delete from syncd.delivery_other
         where at >= one::timestamp at time zone 'UTC'
           and at < (one + 1)::timestamp at time zone 'UTC';
        execute format(
            'create table syncd.%I partition of syncd.delivery for values from (%L) to (%L)',
            'delivery_' || to_char(one, 'YYYYMMDD'),
            one::timestamp at time zone 'UTC', (one + 1)::timestamp at time zone 'UTC');
        insert into syncd.delivery select * from pg_temp.waiting;
        drop table pg_temp.waiting;
    end loop;
    for old in
        select c.relname
          from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'syncd.delivery'::regclass
           and c.relname ~ '^delivery_[0-9]{8}$'
           and to_date(right(c.relname, 8), 'YYYYMMDD') < today - p_keep
    loop
        execute format('drop table syncd.%I', old.relname);
        dropped := dropped + 1;
    end loop;
    delete from syncd.delivery_other where at < now() - make_interval(days => p_keep + 1);
    return dropped;
end $$;

select syncd.keep_deliveries(36500);
