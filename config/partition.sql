-- syncd.mirror in sixteen parts by contact id: for tens of millions of contacts at one destination,
-- or many destinations, when the table no longer fits into memory, or one VACUUM of it takes hours.
-- Nothing of syncd needs to know.
--
--     stop every daemon, then: psql -v ON_ERROR_STOP=1 -f config/partition.sql, then sql/roles.sql
--
-- Run it as the owner of the schema. It writes every row once more, in one transaction (twice the
-- room, some minutes per ten million rows). A later `syncd migrate` alters the parts as well.
-- PostgreSQL analyses the parts by itself, but never the whole: have `analyze syncd.mirror` run
-- every night.

begin;

alter table syncd.mirror rename to mirror_in_one;
create table syncd.mirror (like syncd.mirror_in_one including all) partition by hash (contact_id);

do $$
declare
    parts constant int := 16;
    storage text := (select coalesce(' with (' || array_to_string(reloptions, ', ') || ')', '')
                       from pg_class where oid = 'syncd.mirror_in_one'::regclass);
    part text;
    seen record;
begin
    perform set_config('search_path', 'pg_catalog', true);  -- names below are written in full
    for n in 0 .. parts - 1 loop
        part := 'syncd.mirror_part_' || n;
        execute format('create table %s partition of syncd.mirror'
                       ' for values with (modulus %s, remainder %s)%s', part, parts, n, storage);
        for seen in select attname, attstattarget from pg_attribute
                     where attrelid = 'syncd.mirror_in_one'::regclass and attnum > 0
                       and not attisdropped and attstattarget >= 0 loop
            execute format('alter table %s alter %I set statistics %s',
                           part, seen.attname, seen.attstattarget);
        end loop;
    end loop;

    insert into syncd.mirror select * from syncd.mirror_in_one;

    -- Views, and functions whose body is no text, mean the old table, whatever it is called.
    for seen in select format('create or replace view %s as %s', v.oid::regclass,
                              pg_get_viewdef(v.oid)) as text
                  from pg_depend d
                  join pg_rewrite r on r.oid = d.objid and d.classid = 'pg_rewrite'::regclass
                  join pg_class v on v.oid = r.ev_class and v.relkind = 'v'
                 where d.refobjid = 'syncd.mirror_in_one'::regclass
                 group by v.oid
                union all
                select pg_get_functiondef(p.oid)
                  from pg_depend d
                  join pg_proc p on p.oid = d.objid and d.classid = 'pg_proc'::regclass
                 where d.refobjid = 'syncd.mirror_in_one'::regclass
                 group by p.oid loop
        execute replace(seen.text, 'syncd.mirror_in_one', 'syncd.mirror');
    end loop;
end $$;

drop table syncd.mirror_in_one;
analyze syncd.mirror;

commit;
