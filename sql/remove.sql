-- name: lock
select id, source, credential from syncd.destination where name = $1::text for update;

-- name: stays
-- What is known to be at the provider, and goes on being there.
select (select count(*) from syncd.mirror m
         where m.destination_id = $1::int and m.state in ('here', 'adopted')) as contacts,
       (select count(*) from syncd.mirror m
         where m.destination_id = $1::int and m.state = 'withdrawn') as withdrawn,
       (select count(*) from syncd.journal j where j.destination_id = $1::int) as unsent,
       (select count(*) from syncd.opt_out o
         where o.destination_id = $1::int and o.lifted_at is null) as opt_outs,
       array(select l.name from syncd.list_mirror l
              where l.destination_id = $1::int and l.remote_id is not null
              order by l.name) as lists,
       exists (select 1 from syncd.secret s where s.name = $2::text)
       and not exists (select 1 from syncd.destination d
                        where d.id <> $1::int and coalesce(d.credential, d.name) = $2::text)
           as secret;

-- name: remove
delete from syncd.destination where id = $1::int;
