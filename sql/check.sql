-- name: server
select current_setting('server_version_num')::int as number,
       current_setting('server_version') as version,
       current_setting('max_prepared_transactions')::int as prepared,
       current_setting('max_connections')::int as connections,
       clock_timestamp() as now;

-- name: base_tables
-- What a view reads, through any number of views: the relations that are no views themselves.
with recursive beneath as (
    select $1::text::regclass::oid as oid
    union
    select d.refobjid
      from beneath b
      join pg_class v on v.oid = b.oid and v.relkind = 'v'
      join pg_rewrite r on r.ev_class = b.oid
      join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
                      and d.refclassid = 'pg_class'::regclass and d.refobjid <> b.oid
)
select c.oid::regclass::text as name, c.relkind::text as kind,
       exists (select 1 from syncd.watched w where w.relation = c.oid and w.source = $2::text)
           as watched
  from beneath b
  join pg_class c on c.oid = b.oid
 where c.relkind in ('r', 'p', 'm', 'f')
 order by 1;

-- name: watched
-- How the tables of a source are watched: is the key still there, do the triggers still fire.
select w.relation::text as name, w.key,
       exists (select 1 from pg_attribute a
                where a.attrelid = w.relation and a.attname = w.key and not a.attisdropped) as has_key,
       exists (select 1 from syncd.watched_trigger t where t.relation = w.relation)
           as has_trigger,
       exists (select 1 from syncd.watched_trigger t
                where t.relation = w.relation and t.enabled in ('D', 'R')) as silenced
  from syncd.watched w
 where w.source = $1::text and w.parent is null
 order by 1;

-- name: sizes
select c.oid::regclass::text as name, greatest(c.reltuples, 0)::bigint as rows
  from unnest($1::text[], $2::text[]) u (schema, name)
  join pg_namespace n on n.nspname = u.schema
  join pg_class c on c.relnamespace = n.oid and c.relname = u.name
 order by 1;

-- name: doubles
-- Addresses that the last whole scans have met more than once in one place, one of them a contact of
-- ours; contacts of ours that share an address, each with a record, are rightly there.
with d as (
    select max(s.contact_id) as contact_id
      from syncd.seen s
     where s.destination_id = $1::int and s.email is not null and s.missed = 0
     group by s.list_key, s.email
    having count(*) > count(distinct s.contact_id) and count(s.contact_id) > 0
), c as (
    select distinct d.contact_id from d
)
select count(*) as contacts, (array_agg(c.contact_id order by c.contact_id))[1:$2::int] as ids from c;
