-- What is no address finds nobody: it was looked for everywhere, confirmed and forgotten, and the
-- person who was meant stayed. Refused when it is asked for; a CHECK, even one that is not valid,
-- would also stop the proofs of such requests that are open already.
create or replace function syncd.normalise_erasure() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    used text[];
begin
    new.email := nullif(lower(btrim(new.email)), '');
    new.contact_id := nullif(btrim(new.contact_id), '');
    if new.email !~ '[^[:space:]@]@[^[:space:]@]' then
        raise exception 'email is not an address: nobody would be found by it'
            using hint = 'name the person by contact_id, or by an address',
                  errcode = 'check_violation', constraint = 'erasure_email_is_an_address';
    end if;
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
