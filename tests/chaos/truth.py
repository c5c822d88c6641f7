"""What remembers every version of every contact, in the company's own tables.

Every insert or update of a contact gives it a new version, which travels in its last name: who
finds it in a request knows whose data these are, and how old. `chaos.truth` keeps every row's every
state; PostgreSQL tells when each was committed. `chaos.trail` is for whoever looks into a finding:
every state of every row of mirror and journal.
"""

from __future__ import annotations

SCHEMA = """
create schema chaos;
create sequence chaos.version;
create sequence chaos.fresh;
create table chaos.truth (
    n bigserial primary key,
    xid xid8 not null default pg_current_xact_id(),
    relation text not null,
    op text not null,
    was jsonb,
    now jsonb
);
create function chaos.stamp() returns trigger language plpgsql as $$
begin
    new.last_name := 'V' || nextval('chaos.version');
    return new;
end $$;
create function chaos.tell() returns trigger language plpgsql as $$
begin
    insert into chaos.truth (relation, op, was, now)
    values (tg_table_name, lower(tg_op), case when tg_level = 'ROW' and tg_op <> 'INSERT'
            then to_jsonb(old) end, case when tg_level = 'ROW' and tg_op <> 'DELETE'
            then to_jsonb(new) end);
    return null;
end $$;
create trigger stamp before insert or update on syncd.contact
   for each row execute function chaos.stamp();
create trigger tell after insert or update or delete on syncd.contact
   for each row execute function chaos.tell();
create trigger tell_all after truncate on syncd.contact
   for each statement execute function chaos.tell();
create table chaos.trail (
    n bigserial primary key,
    xid xid8 not null default pg_current_xact_id(),
    at timestamptz not null default clock_timestamp(),
    relation text not null,
    was jsonb,
    now jsonb
);
create function chaos.follow() returns trigger language plpgsql as $$
begin
    insert into chaos.trail (relation, was, now)
    values (tg_table_name, case when tg_op <> 'INSERT' then to_jsonb(old) end,
            case when tg_op <> 'DELETE' then to_jsonb(new) end);
    return null;
end $$;
create trigger follow after insert or update or delete on syncd.mirror
   for each row execute function chaos.follow();
create trigger follow after insert or update or delete on syncd.journal
   for each row execute function chaos.follow();
"""
TRUTH = """
select n, relation, op, was, now,
       extract(epoch from coalesce(pg_xact_commit_timestamp(xid::xid), now()))::float8 as at
  from chaos.truth order by n
"""
