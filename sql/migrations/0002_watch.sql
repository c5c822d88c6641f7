-- Every change of a watched table becomes a row in syncd.change (design 4, races 12, 14, 26).
--
-- What is promised to the owner of the table:
--   * a writer needs no rights on syncd: the functions are SECURITY DEFINER, search_path is fixed,
--     every name is qualified (without that an apply worker of logical replication dies in a loop);
--   * nothing here fails his statement: what cannot be noted is a WARNING and a full pass owed;
--   * no subtransaction of ours that writes runs more than once a transaction: one a statement
--     would overflow the 64 that a backend can show, and slow every snapshot of the cluster down.
-- The trigger carries no arguments: all it needs is its row in syncd.watched. That row, of type
-- regclass, follows renames, a dump and a restore; a name in an argument would not.
--
-- `session_replication_role = replica` silences ordinary triggers: bulk loads that set it are
-- found by the nightly full pass. Tables fed by a subscription get ENABLE ALWAYS row triggers
-- (statement triggers never fire in an apply worker, whatever they are set to).

create table syncd.watched (
    relation regclass not null,
    source text not null references syncd.source on update cascade on delete cascade,
    key text not null,
    via regclass,
    notify boolean not null default true,
    parent regclass,
    how text not null default 'statement' check (how in ('statement', 'row')),
    writes text not null default 'contact' check (writes in ('contact', 'list')),
    is_unique boolean not null default false,
    tells_gone boolean not null default false,
    silenced boolean not null default false,
    watched_at timestamptz not null default now(),
    primary key (relation, source)
);
comment on table syncd.watched is
    'Tables whose changes are noted. Written by syncd.watch and syncd.unwatch only.';
comment on column syncd.watched.parent is
    'null: watched by name; else the table by which this partition or child is watched';
comment on column syncd.watched.how is
    'statement triggers, or row triggers that are ENABLE ALWAYS because a subscription writes here';
comment on column syncd.watched.tells_gone is
    'a key deleted here is a contact that is gone (the rule is in syncd.watch_rule)';
comment on column syncd.watched.silenced is
    'our triggers are disabled (DISABLE TRIGGER ALL, for a load): enabling them owes a full pass';

-- ── Noting ────────────────────────────────────────────────────────────────────────────────

create function syncd.owe(source text, notify boolean default true) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    insert into syncd.change (source) values (owe.source);
    if owe.notify then
        perform syncd.ring(owe.source);
    end if;
exception when others then
    raise warning 'syncd: source "%" owes a full pass, which could not be noted (SQLSTATE %)',
        owe.source, sqlstate;
end $$;
comment on function syncd.owe is
    'Make the destinations of a source owe a full pass. Never raises an error.';

-- A transaction that has notified cannot be prepared: where two-phase commit is possible,
-- silence; whoever polls finds the row all the same.
create function syncd.ring(source text) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    if current_setting('max_prepared_transactions') = '0' then
        perform pg_notify('syncd_change', ring.source);
    end if;
end $$;
comment on function syncd.ring is
    'Wake the daemons that LISTEN on syncd_change; nothing where transactions may be prepared.';

-- Only faults of definition carry their text: others may quote the row (addresses).
create function syncd.complain(relation regclass, state text, message text) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    raise warning 'syncd: a change of % could not be traced (%); a full pass is owed', relation,
        case when state like '42%' then message else 'SQLSTATE ' || state end
        using hint = 'syncd check names the fault; select syncd.watch(...) again to mend it.';
end $$;

-- A handful of keys, which the trigger has read already; how many rows that made.
create function syncd.note_few(seen syncd.watched, news text[], olds text[]) returns bigint
    language plpgsql
as $$
declare
    noted bigint;
    more bigint := 0;
begin
    if olds is not distinct from news then
        olds := null;
    end if;
    if seen.writes = 'list' then
        insert into syncd.change (source, list_id)
        select distinct seen.source, k from unnest(news || olds) k where k is not null;
        get diagnostics noted = row_count;
        return noted;
    elsif olds is null and cardinality(news) = 1 and news[1] is not null then
        insert into syncd.change (source, contact_id) values (seen.source, news[1]);
        return 1;
    end if;
    insert into syncd.change (source, contact_id)
    select distinct seen.source, k from unnest(news) k where k is not null;
    get diagnostics noted = row_count;
    insert into syncd.change (source, contact_id, gone)
    select seen.source, k, seen.tells_gone from unnest(olds) k where k is not null
    except
    select seen.source, k, seen.tells_gone from unnest(news) k;
    get diagnostics more = row_count;
    return noted + more;
end $$;

-- The changed keys of a statement as a subquery (key, gone); of a row, $1 being old and $2 new.
-- It is planned anew each time on purpose: a cached plan made for one row would join two
-- transition tables of 100,000 rows by nested loop.
create function syncd.note_keys(op text, level text, key text) returns text
    language sql immutable
    return format(
        case op
        when 'INSERT' then 'select n.%1$I as key, false as gone from %2$s n'
        when 'DELETE' then 'select o.%1$I as key, true as gone from %3$s o'
        else 'select n.%1$I as key, false as gone from %2$s n union all '
             'select o.%1$I, true from %3$s o '
             'where not exists (select from %2$s m where m.%1$I = o.%1$I)'
        end,
        key,
        case level when 'ROW' then '(select ($2).*)' else 'new_rows' end,
        case level when 'ROW' then '(select ($1).*)' else 'old_rows' end);

-- Any number of keys of one statement: the INSERT to run.
create function syncd.note_many(op text, seen syncd.watched) returns text
    language sql immutable
    return format(
        'insert into syncd.change (source, %s_id, gone) select %s $1, c.key::text, c.gone and $2 '
        'from (%s) c where c.key is not null',
        (seen).writes, case when not (seen).is_unique then 'distinct' end,
        syncd.note_keys(op, 'STATEMENT', (seen).key));

-- The contacts behind the changed keys, and whether a deleted key cannot be traced any more.
create function syncd.note_via(op text, level text, seen syncd.watched) returns text
    language sql stable
    return format(
        'select array_agg(distinct v.contact_id::text) filter (where v.contact_id is not null), '
        'null::text[], coalesce(bool_or(c.gone and v.key is null), false) from (%s) c '
        'left join %s v on v.key = c.key where c.key is not null',
        syncd.note_keys(op, level, (seen).key), (seen).via::text);

-- The trigger function of all tables whose key has this name; static, so that its plans are kept:
-- one that reads the key's name from a table costs a commit of one row four times as much.
create function syncd.note_function(key text) returns text
    language sql immutable
    return 'note_by_' || case when octet_length(key) > 50 then md5(key) else key end;

create function syncd.make_note(key text) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $make$
begin
    execute format($create$
create or replace function syncd.%I() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set row_security = off  -- a row hidden from us is an error (and a full pass), not a silence
as %L $create$, syncd.note_function(key), replace(replace($note$
declare
    seen syncd.watched;
    news text[];
    olds text[];
    many boolean := false;
    lost boolean;
    noted bigint;
begin
    for seen in select w.* from syncd.watched w where w.relation = tg_relid loop
        noted := 0;
        lost := tg_op = 'TRUNCATE';
        begin  -- reads only: a subtransaction without an xid costs next to nothing
            if lost then
                null;
            elsif seen.key <> «literal» then
                raise undefined_column using message = 'another source watches it by another key';
            elsif seen.via is not null then
                execute syncd.note_via(tg_op, tg_level, seen) into news, olds, lost using old, new;
            elsif tg_level = 'ROW' then
                news := case when tg_op <> 'DELETE' then array[new.«key»::text] end;
                olds := case when tg_op <> 'INSERT' then array[old.«key»::text] end;
            else
                if tg_op = 'UPDATE' then  -- both in the same order: equal means no key has changed
                    select array(select n.«key»::text from new_rows n limit 1001),
                           array(select o.«key»::text from old_rows o limit 1001)
                      into news, olds;
                elsif tg_op = 'INSERT' then
                    news := array(select n.«key»::text from new_rows n limit 1001);
                else
                    olds := array(select o.«key»::text from old_rows o limit 1001);
                end if;
                many := greatest(cardinality(news), cardinality(olds)) > 1000;
            end if;
        exception when others then
            lost := true;
            news := null;
            olds := null;
            perform syncd.complain(tg_relid, sqlstate, sqlerrm);
        end;
        if coalesce(cardinality(news), cardinality(olds), 0) = 0 then
            null;
        elsif current_setting('syncd.noted', true) = 'yes' then
            if many then
                execute syncd.note_many(tg_op, seen) using seen.source, seen.tells_gone;
                get diagnostics noted = row_count;
            else
                noted := syncd.note_few(seen, news, olds);
            end if;
        else
            begin  -- the first note of a transaction proves that the next ones can be made
                if many then
                    execute syncd.note_many(tg_op, seen) using seen.source, seen.tells_gone;
                    get diagnostics noted = row_count;
                else
                    noted := syncd.note_few(seen, news, olds);
                end if;
                perform set_config('syncd.noted', 'yes', true);
            exception when others then
                lost := true;
                perform syncd.complain(tg_relid, sqlstate, sqlerrm);
            end;
        end if;
        if lost then
            perform syncd.owe(seen.source, seen.notify);
        elsif noted > 0 and seen.notify then
            perform syncd.ring(seen.source);
        end if;
    end loop;
    return null;
end $note$, '«key»', quote_ident(key)), '«literal»', quote_literal(key)));
    execute format('revoke execute on function syncd.%I() from public', syncd.note_function(key));
end $make$;

-- ── What is watched, and how ──────────────────────────────────────────────────────────────

create view syncd.watched_trigger as
select t.tgrelid::regclass as relation, t.tgname::text as name, t.tgenabled as enabled,
       f.proname::text as function
  from pg_catalog.pg_trigger t
  join pg_catalog.pg_proc f on f.oid = t.tgfoid
 where f.pronamespace = 'syncd'::regnamespace and f.proname ^@ 'note_by_' and not t.tgisinternal;

create view syncd.watched_tree as
with recursive tree as (
    select relation as top, relation, source from syncd.watched where parent is null
    union all
    select t.top, i.inhrelid::regclass, t.source
      from tree t join pg_catalog.pg_inherits i on i.inhparent = t.relation
)
select distinct on (t.relation, t.source)
       t.relation, t.source, t.top, c.relkind, w.key, w.via, w.notify, w.writes, w.is_unique,
       w.tells_gone,
       case when exists (
           select from tree o join pg_catalog.pg_subscription_rel s on s.srrelid = o.relation
            where o.top = t.top
       ) then 'row' else 'statement' end as how
  from tree t
  join pg_catalog.pg_class c on c.oid = t.relation and c.relkind in ('r', 'p')
  join syncd.watched w on w.relation = t.top and w.source = t.source
 order by t.relation, t.source, t.relation <> t.top, t.top;
comment on view syncd.watched_tree is
    'What should be watched: the named tables with their partitions and children of today.';

-- What a column of syncd.source names, or null: also without a schema, which is then public.
create function syncd.named(name text) returns regclass
    language plpgsql stable
    set search_path = pg_catalog, public, pg_temp
as $$
begin
    return to_regclass(name);
exception when others then
    return null;
end $$;

-- A deleted key is a contact that is gone when the table is the source's contact relation; or,
-- where that is a view, when the key alone is unique in the table and refers to no other (the
-- customers beneath the view, not their details, memberships or addresses).
create function syncd.watch_rule(
    relation regclass, key text, source text, via regclass,
    out writes text, out is_unique boolean, out tells_gone boolean
)
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    told syncd.source;
    contact regclass;
    key_number smallint;
begin
    select s.* into strict told from syncd.source s where s.name = watch_rule.source;
    contact := syncd.named(told.contact);
    select a.attnum into strict key_number from pg_attribute a
     where a.attrelid = watch_rule.relation and a.attname = watch_rule.key;
    writes := case when via is null and relation = syncd.named(told.list) then 'list'
                   else 'contact' end;
    is_unique := exists (
        select from pg_index i
         where i.indrelid = watch_rule.relation and i.indisunique and i.indisvalid
           and i.indpred is null and i.indnkeyatts = 1 and i.indkey[0] = key_number);
    tells_gone := via is null and writes = 'contact' and case
        when contact = relation then true
        when exists (select from pg_class c where c.oid = contact and c.relkind in ('r', 'p'))
        then false
        else is_unique and not exists (
            select from pg_constraint f
             where f.conrelid = watch_rule.relation and f.contype = 'f'
               and f.conkey = array[key_number])
        end;
end $$;

-- Refuses, with a reason and a remedy, what can never be noted.
create function syncd.watch_check(relation regclass, key text, source text, via regclass)
    returns void
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    kind "char" := (select c.relkind from pg_class c where c.oid = watch_check.relation);
    key_type regtype;
    base regtype;
begin
    if relation is null or key is null or source is null then
        raise exception 'syncd.watch: relation, key and source must not be null'
            using errcode = 'null_value_not_allowed';
    end if;
    if kind in ('v', 'm', 'f') then
        raise exception 'syncd cannot watch %: it is a %', relation,
            case kind when 'v' then 'view' when 'm' then 'materialized view'
                      else 'foreign table' end
            using errcode = 'feature_not_supported',
                  hint = 'Watch the tables beneath it; without that it lives by the '
                      'destination''s full_schedule.';
    elsif kind not in ('r', 'p') or relation in ('syncd.change', 'syncd.watched') then
        raise exception 'syncd cannot watch %: it is not a table of contacts', relation
            using errcode = 'wrong_object_type';
    end if;
    if not exists (select from syncd.source s where s.name = watch_check.source) then
        raise exception 'there is no source "%"', source
            using errcode = 'undefined_object',
                  hint = format('Sources: %s. Insert a row into syncd.source first.',
                      (select string_agg(s.name, ', ' order by s.name) from syncd.source s));
    end if;
    select a.atttypid into key_type from pg_attribute a
     where a.attrelid = watch_check.relation and a.attname = watch_check.key
       and a.attnum > 0 and not a.attisdropped;
    if not found then
        raise exception '% has no column "%"', relation, key
            using errcode = 'undefined_column',
                  hint = format('Its columns: %s.',
                      (select string_agg(a.attname, ', ' order by a.attnum) from pg_attribute a
                        where a.attrelid = watch_check.relation and a.attnum > 0
                          and not a.attisdropped));
    end if;
    select case when t.typtype = 'd' then t.typbasetype else t.oid end into base
      from pg_type t where t.oid = key_type;
    if via is null
       and base not in ('smallint', 'integer', 'bigint', 'uuid', 'text', 'varchar') then
        raise exception 'the key %.% is of type %', relation, key, key_type
            using errcode = 'datatype_mismatch',
                  hint = 'Keys of contacts are integer, uuid or text.';
    elsif via is not null then
        perform syncd.watch_check_via(via, key_type);
    end if;
end $$;

create function syncd.watch_check_via(via regclass, key_type regtype) returns void
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
as $$
begin
    execute format(
        'select v.contact_id::text from %s v where v.key = null::%s limit 0', via, key_type);
exception when undefined_column or undefined_function or insufficient_privilege then
    raise exception 'syncd cannot trace keys via %: %', via, sqlerrm
        using errcode = sqlstate,
              hint = format('It needs the columns key (comparable to %s) and contact_id, and '
                  'must be readable by %s.', key_type, current_user);
end $$;

-- ── Triggers ──────────────────────────────────────────────────────────────────────────────

create function syncd.fasten(relation regclass, how text, function text) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
    set client_min_messages = warning
as $$
declare
    each text;
begin
    perform syncd.unfasten(relation);
    execute format('create trigger syncd_truncate after truncate on %s '
        'for each statement execute function syncd.%I()', relation, function);
    if how = 'statement' then
        foreach each in array array[
            'insert on %1$s referencing new table as new_rows',
            'update on %1$s referencing old table as old_rows new table as new_rows',
            'delete on %1$s referencing old table as old_rows'
        ] loop
            execute format('create trigger syncd_' || split_part(each, ' ', 1) || ' after ' || each
                || ' for each statement execute function syncd.%2$I()', relation, function);
        end loop;
        return;
    end if;
    if (select c.relkind = 'r' from pg_class c where c.oid = fasten.relation) then
        execute format('create trigger syncd_row after insert or update or delete on %s '
            'for each row execute function syncd.%I()', relation, function);
        execute format('alter table %s enable always trigger syncd_row', relation);
    end if;
    execute format('alter table %s enable always trigger syncd_truncate', relation);
end $$;

create function syncd.unfasten(relation regclass) returns void
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    each text;
begin
    for each in
        select t.name from syncd.watched_trigger t where t.relation = unfasten.relation
    loop
        execute format('drop trigger %I on %s', each, relation);
    end loop;
end $$;

-- Enters the partitions and children that are not in the book yet; the sources that gained one.
create function syncd.enter_tree(top regclass default null) returns setof text
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    insert into syncd.watched
          (relation, source, key, via, notify, parent, how, writes, is_unique, tells_gone)
    select t.relation, t.source, t.key, t.via, t.notify, t.top, t.how, t.writes, t.is_unique,
           t.tells_gone
      from syncd.watched_tree t
     where enter_tree.top is null or t.top = enter_tree.top
        on conflict do nothing
    returning source;
$$;

-- Strikes out what has been dropped or detached; the sources that lost one.
create function syncd.strike_tree() returns setof text
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    delete from syncd.watched w
     where not exists (
         select from syncd.watched_tree t where t.relation = w.relation and t.source = w.source)
    returning w.source;
$$;

-- Triggers that somebody silenced and enabled again: what was written meanwhile is unknown.
create function syncd.unsilence() returns setof text
    language sql
    set search_path = pg_catalog, pg_temp
as $$
    with now as (
        select w.relation, w.source, exists (
            select from syncd.watched_trigger t
             where t.relation = w.relation and t.enabled in ('D', 'R')) as silenced
          from syncd.watched w
    ), changed as (
        update syncd.watched w set silenced = n.silenced
          from now n
         where n.relation = w.relation and n.source = w.source and n.silenced <> w.silenced
        returning w.source, w.silenced
    )
    select source from changed where not silenced;
$$;

create function syncd.fasten_all() returns integer
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    odd record;
    touched integer := 0;
begin
    for odd in
        with wanted as (
            select distinct on (t.relation) t.relation, t.how,
                   syncd.note_function(t.key) as function,
                   case when t.how = 'statement'
                       then '{syncd_delete,syncd_insert,syncd_truncate,syncd_update}'::text[]
                       when t.relkind = 'r' then '{syncd_row,syncd_truncate}'
                       else '{syncd_truncate}' end as names
              from syncd.watched_tree t
             order by t.relation, t.relation <> t.top, t.source
        ), present as (
            select t.relation, min(t.function) as function,
                   array_agg(t.name order by t.name) as names,
                   bool_or(t.enabled = 'O') as ordinary
              from syncd.watched_trigger t
             group by t.relation
        )
        select relation, w.how, w.function
          from wanted w full join present p using (relation)
         where (w.names, w.function) is distinct from (p.names, p.function)
            or (w.how = 'row' and p.ordinary)
    loop
        if odd.how is null then
            perform syncd.unfasten(odd.relation);
        else
            perform syncd.fasten(odd.relation, odd.how, odd.function);
        end if;
        touched := touched + 1;
    end loop;
    return touched;
end $$;

create function syncd.rewatch() returns integer
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '2s'
as $$
declare
    owing text[];
    touched integer;
begin
    perform set_config('syncd.busy', 'yes', true);  -- our own DDL is not to be followed
    owing := array(select syncd.strike_tree());
    owing := owing || array(select syncd.enter_tree());
    update syncd.watched w
       set key = t.key, via = t.via, notify = t.notify, how = t.how, writes = t.writes,
           is_unique = t.is_unique, tells_gone = t.tells_gone
      from syncd.watched_tree t
     where t.relation = w.relation and t.source = w.source
       and (w.key, w.notify, w.how, w.writes, w.is_unique, w.tells_gone, w.via)
           is distinct from
           (t.key, t.notify, t.how, t.writes, t.is_unique, t.tells_gone, t.via);
    owing := owing || array(select syncd.unsilence());
    touched := syncd.fasten_all();
    perform set_config('syncd.busy', '', true);
    perform syncd.owe(s, true) from (select distinct unnest(owing) as s) o;
    return touched;
end $$;
comment on function syncd.rewatch is
    'Bring triggers in step with partitions, children and subscriptions of today; a source whose '
    'tables were found changed owes a full pass. Returns how many tables were touched. An event '
    'trigger calls it; where there is none (not a superuser), let the daemon call it.';

-- One table, one key: the trigger function is made for the key's name.
create function syncd.watch_one_key(relation regclass, key text, source text) returns void
    language plpgsql stable
    set search_path = pg_catalog, pg_temp
as $$
declare
    other syncd.watched;
begin
    select w.* into other from syncd.watched w
     where w.relation = watch_one_key.relation and w.source <> watch_one_key.source
       and w.key <> watch_one_key.key
     limit 1;
    if found then
        raise exception '% is watched by % for source "%"', relation, other.key, other.source
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Use the same key, and via, a view (key, contact_id), to translate it.';
    end if;
end $$;

-- Making a trigger waits for the writers of the table, and new writers wait behind it: hence two
-- seconds, then an error (55P03: try again) instead of a queue in the customer's application.
create function syncd.watch(
    relation regclass, key text, source text default 'default', via regclass default null,
    notify boolean default true
) returns void
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '2s'
as $$
begin
    perform syncd.watch_check(watch.relation, watch.key, watch.source, watch.via);
    perform syncd.watch_one_key(watch.relation, watch.key, watch.source);
    insert into syncd.watched as w
          (relation, source, key, via, notify, writes, is_unique, tells_gone)
    select watch.relation, watch.source, watch.key, watch.via, watch.notify, r.*
      from syncd.watch_rule(watch.relation, watch.key, watch.source, watch.via) r
        on conflict on constraint watched_pkey do update
       set key = excluded.key, via = excluded.via, notify = excluded.notify, parent = null,
           writes = excluded.writes, is_unique = excluded.is_unique,
           tells_gone = excluded.tells_gone, watched_at = now();
    perform syncd.make_note(watch.key);
    perform syncd.enter_tree(watch.relation);
    perform syncd.rewatch();
end $$;
comment on function syncd.watch is
    'Note every change of a table (and of its partitions) in syncd.change: column key is the '
    'contact''s id, or is looked up in via(key, contact_id). Again for the same source: replaces.';

create function syncd.unwatch(relation regclass) returns void
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '2s'
as $$
declare
    top regclass;
begin
    select w.parent into top from syncd.watched w
     where w.relation = unwatch.relation
     order by w.parent nulls first limit 1;
    if not found then
        raise notice 'syncd does not watch %', unwatch.relation;
    elsif top is not null then
        raise exception '% is watched as a part of %', unwatch.relation, top
            using errcode = 'object_not_in_prerequisite_state',
                  hint = format('select syncd.unwatch(%L);', top::text);
    end if;
    delete from syncd.watched w
     where w.parent = unwatch.relation or (w.relation = unwatch.relation and w.parent is null);
    perform syncd.rewatch();
end $$;
comment on function syncd.unwatch is
    'Note changes of this table and its partitions no longer; removes the triggers.';

-- ── What happens around a table ───────────────────────────────────────────────────────────

create function syncd.follow_source() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
begin
    update syncd.watched w
       set (writes, is_unique, tells_gone) =
           (select r.*
              from syncd.watch_rule(coalesce(w.parent, w.relation), w.key, w.source, w.via) r)
     where w.source = new.name;
    return null;
end $$;
create trigger follow_source after update of contact, list on syncd.source
    for each row when (old.contact <> new.contact or old.list <> new.list)
    execute function syncd.follow_source();

create function syncd.follow_tables() returns event_trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set lock_timeout = '2s'
as $$
declare
    ours boolean;
    missing text;
begin
    ours := case
        when current_setting('syncd.busy', true) = 'yes' then false
        when tg_tag like '%SUBSCRIPTION' then exists (select from syncd.watched)
        when tg_tag like 'DROP%' then exists (
            select from syncd.watched w
             where not exists (select from pg_class c where c.oid = w.relation))
        else exists (
            select from pg_event_trigger_ddl_commands() d
             where d.classid = 'pg_class'::regclass and exists (
                 select from syncd.watched w
                  where w.relation = d.objid
                     or w.relation in (select i.inhparent from pg_inherits i
                                        where i.inhrelid = d.objid)))
        end;
    if not ours then
        return;
    end if;
    perform syncd.rewatch();
    for missing in
        select format('%s.%I', w.relation, w.key) from syncd.watched w
         where w.parent is null and not exists (
             select from pg_attribute a
              where a.attrelid = w.relation and a.attname = w.key and not a.attisdropped)
    loop
        raise warning 'syncd watches %, which is no longer there', missing
            using hint = 'Call syncd.watch again with the new name of the key.';
    end loop;
exception when others then
    raise warning 'syncd could not follow this % (%: %)', tg_tag, sqlstate, sqlerrm
        using hint = 'select syncd.rewatch(); until then every statement is left to full passes.';
    perform syncd.owe(w.source) from (select distinct source from syncd.watched) w;
end $$;

do $$
begin
    create event trigger syncd_follow on ddl_command_end
        when tag in ('CREATE TABLE', 'ALTER TABLE', 'DROP TABLE', 'DROP SCHEMA', 'DROP OWNED',
                     'CREATE SUBSCRIPTION', 'ALTER SUBSCRIPTION', 'DROP SUBSCRIPTION')
        execute function syncd.follow_tables();
exception when insufficient_privilege then
    raise notice 'syncd: no event trigger (that takes a superuser): new partitions are found when '
        'syncd.rewatch() is called';
end $$;

-- ── Trimming ──────────────────────────────────────────────────────────────────────────────

-- A feed holds a row until its position sees the row's transaction as done. A position without
-- value holds nothing (its destination owes a full pass and takes a new one first); a position
-- from the future is another cluster's (races 28) and holds everything until it is replaced.
create function syncd.trim_change(blocks integer default 100) returns bigint
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    of_source text;
    trimmed bigint;
    total bigint := 0;
begin
    for of_source in select distinct_source from syncd.change_sources() s (distinct_source) loop
        loop
            exit when blocks <= 0;
            trimmed := syncd.trim_block(of_source);
            total := total + trimmed;
            blocks := blocks - 1;
            exit when trimmed < 10000;
        end loop;
    end loop;
    return total;
end $$;
comment on function syncd.trim_change is
    'Delete what every feed has passed, at most so many blocks of 10,000; how many went.';

-- The sources with rows in change, by one index probe each.
create function syncd.change_sources() returns setof text
    language sql stable
    set search_path = pg_catalog, pg_temp
as $$
    with recursive found as (
        (select c.source from syncd.change c order by c.source limit 1)
        union all
        select (select c.source from syncd.change c where c.source > f.source
                 order by c.source limit 1)
          from found f where f.source is not null
    )
    select source from found where source is not null;
$$;

create function syncd.trim_block(of_source text) returns bigint
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
declare
    positions pg_snapshot[];
    bound xid8 := pg_snapshot_xmax(pg_current_snapshot());
    young interval := '0';
    trimmed bigint;
begin
    if not exists (select from syncd.destination d where d.source = of_source) then
        young := '1 minute';
    elsif exists (
        select from syncd.destination d left join syncd.feed f on f.destination_id = d.id
         where d.source = of_source
           and (f.destination_id is null or pg_snapshot_xmax(f.position) > bound)
    ) then
        return 0;
    end if;
    positions := array(
        select f.position from syncd.feed f join syncd.destination d on d.id = f.destination_id
         where d.source = of_source and f.position is not null);
    bound := coalesce(  -- nothing from here on has been passed: the index is not read further
        (select pg_snapshot_xmax(p) as x from unnest(positions) p order by x limit 1), bound);
    with passed as (
        select c.ctid as place from syncd.change c
         where c.source = of_source and c.xid < bound and c.at <= clock_timestamp() - young
           and not exists (
               select from unnest(positions) p where not pg_visible_in_snapshot(c.xid, p))
         order by c.source, c.xid
         limit 10000
           for update skip locked
    )
    delete from syncd.change c using passed where c.ctid = passed.place;
    get diagnostics trimmed = row_count;
    return trimmed;
end $$;

-- ── Who may ───────────────────────────────────────────────────────────────────────────────

-- Trigger functions need no EXECUTE to fire, only to be put on a table.
do $$
declare
    each regprocedure;
begin
    for each in
        select p.oid from pg_catalog.pg_proc p
         where p.pronamespace = 'syncd'::regnamespace and p.proname in (
            'owe', 'ring', 'complain', 'note_few', 'note_keys', 'note_many', 'note_via',
            'note_function', 'make_note', 'named', 'watch_rule', 'watch_check', 'watch_check_via',
            'watch_one_key', 'fasten', 'unfasten', 'enter_tree', 'strike_tree', 'unsilence',
            'fasten_all', 'rewatch', 'watch', 'unwatch', 'follow_source', 'follow_tables',
            'trim_change', 'change_sources', 'trim_block')
    loop
        execute format('revoke execute on function %s from public', each);
    end loop;
end $$;

select syncd.watch('syncd.contact', 'id');
select syncd.watch('syncd.list', 'id');
select syncd.watch('syncd.membership', 'contact_id');
