-- Erasure to its end: who is meant, where it has been conveyed, what keeps the person away after it.

alter table syncd.erasure
    add column source text,
    add column purged_at timestamptz,
    add column result jsonb not null default '{}';
comment on column syncd.erasure.source is
    'whose contact_id it is; may be left out where destinations take but one source';
comment on column syncd.erasure.proof is
    'by destination: sent_at, then confirmed_at, waiting_until, or by_hand (what a person must do)';
comment on column syncd.erasure.purged_at is
    'when our own tables forgot the person; the request itself does when nothing waits any more';
comment on column syncd.erasure.result is
    'what else came of it: which sources still have the person, what our own tables forgot';
drop index syncd.erasure_contact;

-- What one request is about, piece by piece: the ids and addresses it names, and those that are
-- found to be the same person's. Its pieces are gone when it is finished.
create table syncd.erasing (
    id bigint generated always as identity primary key,
    erasure_id bigint not null references syncd.erasure on delete cascade,
    source text,
    contact_id text collate "C",
    email text check (email = lower(btrim(email))),
    done int[] not null default '{}',
    check ((contact_id is null) <> (email is null)),
    check ((contact_id is null) = (source is null))
);
create unique index erasing_contact on syncd.erasing (contact_id, source, erasure_id)
    where contact_id is not null;
create unique index erasing_email on syncd.erasing (email, erasure_id) where email is not null;
comment on table syncd.erasing is
    'contacts and addresses that are being erased; done: destinations that were told. An address'
    ' goes by a journal row of its own, whose contact_id is ''erasure '' and the number of the piece';

create table syncd.tombstone (
    hash text primary key,
    key_id text not null,
    erasure_id bigint not null,
    made_at timestamptz not null default now()
);
comment on table syncd.tombstone is
    'HMAC of an address, or of a contact id, of somebody who was erased: keeps them from being made'
    ' again; key_id tells by which value of the secret `tombstone`';

-- ── A request ─────────────────────────────────────────────────────────────────────────────

-- An id means somebody in one source only; whose it is must not be guessed.
create function syncd.normalise_erasure() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    used text[];
begin
    new.email := nullif(lower(btrim(new.email)), '');
    new.contact_id := nullif(btrim(new.contact_id), '');
    if new.contact_id is null or new.source is not null then
        return new;
    end if;
    select coalesce(array_agg(distinct d.source), '{default}') into used from syncd.destination d;
    if cardinality(used) > 1 then
        raise exception 'contact ids of several sources are in use: name one in column source'
            using hint = 'sources: ' || array_to_string(used, ', '), errcode = 'check_violation';
    end if;
    new.source := used[1];
    return new;
end $$;

-- Under which addresses destinations know a contact now: they are about to forget it.
create function syncd.addresses_of(p_source text, p_contact text) returns text[]
language sql stable set search_path = pg_catalog, pg_temp
return array(
    select m.email from syncd.destination d
      join syncd.mirror m on m.destination_id = d.id and m.contact_id = p_contact
     where d.source = p_source
    union
    select j.email from syncd.destination d
      join syncd.journal j on j.destination_id = d.id and j.contact_id = p_contact
     where d.source = p_source and j.email is not null);

create trigger normalise before insert on syncd.erasure
    for each row execute function syncd.normalise_erasure();

create or replace function syncd.erasure_requested() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if new.contact_id is not null then
        update syncd.erasure set result = result || jsonb_build_object(
            'known', to_jsonb(syncd.addresses_of(new.source, new.contact_id)))
         where id = new.id;
    end if;
    insert into syncd.erasing (erasure_id, source, contact_id)
    select new.id, new.source, new.contact_id where new.contact_id is not null;
    insert into syncd.erasing (erasure_id, email)
    select new.id, new.email where new.email is not null;
    return null;
end $$;

-- Every piece is looked at by every destination that it concerns; so is whoever is known there, or
-- just being made, under an address that is being erased.
create function syncd.erasing_begun() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    if new.contact_id is not null then
        insert into syncd.change (source, contact_id) values (new.source, new.contact_id);
        perform pg_notify('syncd_change', new.source);
        return null;
    end if;
    insert into syncd.change (source, contact_id)
    select s.source, affected.contact_id
      from (select distinct d.source from syncd.destination d) s,
           lateral (select 'erasure ' || new.id
                    union
                    select m.contact_id
                      from syncd.destination d
                      join syncd.mirror m on m.destination_id = d.id and m.email = new.email
                     where d.source = s.source
                    union
                    select * from syncd.in_flight_at(s.source, new.email)
                   ) affected (contact_id)
     where affected.contact_id is not null;
    perform pg_notify('syncd_change', s.source)
       from (select distinct d.source from syncd.destination d) s;
    return null;
end $$;
create trigger begun after insert on syncd.erasing
    for each row execute function syncd.erasing_begun();

insert into syncd.erasing (erasure_id, source, contact_id)
select e.id, 'default', e.contact_id from syncd.erasure e
 where e.finished_at is null and e.contact_id is not null;
insert into syncd.erasing (erasure_id, email)
select e.id, lower(btrim(e.email)) from syncd.erasure e
 where e.finished_at is null and btrim(e.email) <> '';

-- A proof is kept by the destination's name.
create function syncd.rename_proof() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update syncd.erasure e
       set proof = (e.proof - old.name) || jsonb_build_object(new.name, e.proof -> old.name)
     where e.proof ? old.name;
    return null;
end $$;
create trigger rename_proof after update of name on syncd.destination
    for each row when (old.name <> new.name) execute function syncd.rename_proof();

-- ── Forgetting ────────────────────────────────────────────────────────────────────────────

-- An address as it may stand in a text, and not within another address.
create function syncd.address_pattern(p_email text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
return '(?<![[:alnum:]._%+''-])' || regexp_replace(p_email, '([].^$*+?(){}|\\[])', '\\\1', 'g')
       || '(?![[:alnum:]_-]|\.[[:alnum:]])';

-- Takes these addresses (lower case) out of every text and JSON column of ours but the company's own
-- tables, what a destination was given of others, and what is sealed.
create function syncd.blot_out(p_emails text[]) returns int
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    spot record;
    pattern text;
    n int;
    total int := 0;
begin
    if cardinality(p_emails) = 0 then
        return 0;
    end if;
    select string_agg(syncd.address_pattern(said), '|') into pattern
      from (select e from unnest(p_emails) e
            union
            select btrim(to_jsonb(e)::text, '"') from unnest(p_emails) e) u (said);
    for spot in
        select c.relname, a.attname, format_type(a.atttypid, null) as type
          from pg_attribute a
          join pg_class c on c.oid = a.attrelid
         where c.relnamespace = 'syncd'::regnamespace and c.relkind in ('r', 'p')
           and not c.relispartition and a.attnum > 0 and not a.attisdropped
           and a.attgenerated = ''
           and format_type(a.atttypid, null) in ('text', 'jsonb', 'text[]')
           and c.relname not in ('contact', 'list', 'membership', 'source', 'secret', 'meter',
                                 'slot', 'mirror', 'staged', 'intent', 'erasing', 'erasure',
                                 'tombstone', 'migration', 'destination', 'list_mirror')
         order by c.relname, a.attnum
    loop
        execute format(
            'update syncd.%1$I t set %2$I = regexp_replace(t.%2$I::text, $1, ''erased'', ''gi'')::%3$s'
            ' where t.%2$I::text ~* $1', spot.relname, spot.attname, spot.type) using pattern;
        get diagnostics n = row_count;
        total := total + n;
    end loop;
    update syncd.list_mirror set last_error = regexp_replace(last_error, pattern, 'erased', 'gi')
     where last_error ~* pattern;
    return total;
end $$;
