-- name: sealed
select sealed from syncd.secret where name = $1::text;

-- name: names
select name, updated_at, updated_by from syncd.secret order by name;

-- name: keep
insert into syncd.secret (name, sealed) values ($1::text, $2::bytea)
    on conflict (name) do update
   set sealed = excluded.sealed, updated_at = now(), updated_by = current_user;

-- name: keep_first
-- Whoever is second uses what the first one made.
insert into syncd.secret (name, sealed) values ($1::text, $2::bytea) on conflict (name) do nothing;

-- name: lock
select sealed from syncd.secret where name = $1::text for update;

-- name: remove
delete from syncd.secret where name = $1::text returning name;

-- name: lock_all
select name, sealed from syncd.secret order by name for update;

-- name: reseal
-- The value stays what it is, so who set it and when stays too.
update syncd.secret s
   set sealed = r.sealed
  from unnest($1::text[], $2::bytea[]) as r (name, sealed)
 where s.name = r.name;
