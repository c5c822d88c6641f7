-- What syncd needs in PostgreSQL, and no more: four roles, each grant with its reason. Run it as a
-- superuser (or as an owner of the schema who may create roles): before the first `syncd migrate` it
-- makes the roles, after that one and every later one it grants. It may be run any number of times:
--
--     psql -v ON_ERROR_STOP=1 -f roles.sql
--     PGOPTIONS='-c role=syncd_owner' syncd migrate     -- or as a superuser, as you like
--     psql -v ON_ERROR_STOP=1 -f roles.sql
--     create role syncd login in role syncd_runtime;
--     grant select on public.customer, public.customer_list to syncd_runtime;  -- your own tables
--     create role ann login in role syncd_operator;
--
-- syncd_owner     owns the schema and migrates it
-- syncd_runtime   `run`, `backfill` and every command but `migrate`
-- syncd_operator  edits control rows: `apply`, `pause`, `resume`, `scan`, `status`, `export`, or SQL;
--                 decides by rows of `command` and `erasure`
-- syncd_reader    looks, writes nothing, sees no sealed secret: for dashboards
--
-- None of them can log in: make each of your users a member of one.

do $$
declare
    one text;
begin
    foreach one in array array['owner', 'runtime', 'operator', 'reader'] loop
        if to_regrole('syncd_' || one) is null then
            execute format('create role %I nologin', 'syncd_' || one);
        end if;
    end loop;
    -- To make the schema, and the temporary table with which a day of deliveries is moved. A schema
    -- that somebody else has made stays theirs. `syncd.watch` makes triggers on your tables: give
    -- its owner SELECT and TRIGGER on those (ownership, where partitions come and go).
    execute format('grant create, temporary on database %I to syncd_owner', current_database());
end $$;

do $$
begin
    if to_regnamespace('syncd') is null then
        raise notice 'no schema syncd yet: `syncd migrate`, then run this once more';
        return;
    end if;

    -- ── Everybody ───────────────────────────────────────────────────────────────────────

    -- To look: `status`, `explain` and every question of one's own. Sealed secrets are for who
    -- opens them; not even their sealed form is for anybody else.
    grant usage on schema syncd to syncd_runtime, syncd_operator, syncd_reader;
    grant select on all tables in schema syncd to syncd_runtime, syncd_operator, syncd_reader;
    revoke select on syncd.secret from syncd_operator, syncd_reader;

    -- ── Runtime ─────────────────────────────────────────────────────────────────────────

    -- State is the daemon's to write; control rows, because `apply`, `pause` and a halt are rows of
    -- them, too. Not which migrations ran; and never the source: not even syncd's own tables of it.
    grant insert, update, delete on all tables in schema syncd to syncd_runtime;
    revoke insert, update, delete on syncd.migration from syncd_runtime;
    revoke insert, update, delete on syncd.contact, syncd.list, syncd.membership
      from syncd_runtime;
    -- Claim numbers.
    grant usage, select on all sequences in schema syncd to syncd_runtime;
    -- Claims, meters, trimming, partitions of deliveries; not what makes triggers on tables.
    grant execute on all functions in schema syncd to syncd_runtime;
    revoke execute on function syncd.watch(regclass, text, text, regclass, boolean),
                               syncd.unwatch(regclass) from syncd_runtime;
    -- Statistics after bulk changes: from PostgreSQL 17 on a right of its own; before, autovacuum's.
    if current_setting('server_version_num')::int >= 170000 then
        grant maintain on syncd.journal, syncd.mirror, syncd.change, syncd.sharer
           to syncd_runtime;
    end if;

    -- ── Operator ────────────────────────────────────────────────────────────────────────

    -- Where contacts come from and go to. What is changed goes into control_log by a trigger: who
    -- changes a row cannot change the record of it.
    grant insert, update, delete on syncd.source, syncd.destination to syncd_operator;
    -- Commands: to ask, and to take back what nobody has taken up (`scan` does, when it gives up).
    -- What came of them is the daemon's to write.
    grant insert (kind, destination, args, requested_by), delete on syncd.command
       to syncd_operator;
    -- A person who asks to be forgotten, and what was done by hand for it; the proof is the daemon's
    -- to write.
    grant insert (contact_id, email), update (done_by_hand) on syncd.erasure to syncd_operator;
end $$;
