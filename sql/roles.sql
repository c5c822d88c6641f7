-- What syncd needs in PostgreSQL, and no more. Run once as the schema's owner, after `syncd migrate`
-- and again after every update; it may be run any number of times:
--
--     psql -v ON_ERROR_STOP=1 -f roles.sql
--     create role syncd login in role syncd_daemon;
--     grant select on public.customer, public.customer_list to syncd_daemon;  -- your own tables
--
-- syncd_daemon: `run`, `backfill` and every command but `migrate`.
-- syncd_reader: looks, writes nothing and sees no sealed secret; for dashboards.

do $$
begin
    if not exists (select from pg_roles where rolname = 'syncd_daemon') then
        create role syncd_daemon nologin;
    end if;
    if not exists (select from pg_roles where rolname = 'syncd_reader') then
        create role syncd_reader nologin;
    end if;
end $$;

grant usage on schema syncd to syncd_daemon, syncd_reader;
grant select on all tables in schema syncd to syncd_daemon, syncd_reader;
revoke select on syncd.secret from syncd_reader;
grant insert, update, delete on all tables in schema syncd to syncd_daemon;
revoke insert, update, delete on syncd.migration from syncd_daemon;
revoke insert, update, delete on syncd.contact, syncd.list, syncd.membership from syncd_daemon;
grant usage, select on all sequences in schema syncd to syncd_daemon;
grant execute on all functions in schema syncd to syncd_daemon;
revoke execute on function syncd.watch(regclass, text, text, regclass, boolean),
                           syncd.unwatch(regclass) from syncd_daemon;  -- they make triggers
do $$
begin  -- statistics after bulk changes: from PostgreSQL 17 on a right of its own; before, autovacuum's
    if current_setting('server_version_num')::int >= 170000 then
        grant maintain on syncd.journal, syncd.mirror, syncd.change, syncd.sharer to syncd_daemon;
    end if;
end $$;
