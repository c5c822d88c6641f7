-- Opt-outs: whoever is told no by one provider is not mailed by the others (design, section 5).

-- Who is being sent to this address at this moment, at destinations of this source: the mirror does
-- not know of a contact that is only just being made.
create function syncd.in_flight_at(p_source text, p_email text) returns setof text
language sql stable set search_path = pg_catalog, pg_temp
begin atomic
    select j.contact_id
      from syncd.destination d
      join syncd.journal j on j.destination_id = d.id and j.state = 'sent' and j.holds = p_email
     where d.source = p_source
    union
    select i.ids[array_position(i.addresses, p_email)]
      from syncd.destination d
      join syncd.intent i on i.destination_id = d.id and p_email = any(i.addresses)
     where d.source = p_source;
end;

create function syncd.normalise_opt_out() returns trigger language plpgsql as $$
begin
    new.email := lower(btrim(new.email));
    if new.email is not null then
        new.email_hash := encode(sha256(convert_to(new.email, 'UTF8')), 'hex');
    end if;
    return new;
end $$;
create trigger normalise before insert or update of email on syncd.opt_out
    for each row execute function syncd.normalise_opt_out();

-- In the same transaction: the contact, and every contact with that address, is to be looked at
-- again at every destination of the source; and the company's own systems are told.
create function syncd.opt_out_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    told text;
begin
    for told in select distinct d.source from syncd.destination d where d.id = new.destination_id
    loop
        insert into syncd.change (source, contact_id)
        select told, affected.contact_id
          from (select new.contact_id
                union
                select m.contact_id
                  from syncd.destination d
                  join syncd.mirror m on m.destination_id = d.id and m.email = new.email
                 where d.source = told
                union
                select * from syncd.in_flight_at(told, new.email)) affected (contact_id)
         where affected.contact_id is not null;
        perform pg_notify('syncd_change', told);
    end loop;
    perform pg_notify('syncd_opt_out', new.id::text);
    return null;
end $$;
create trigger changed after insert or update of lifted_at, observed_at on syncd.opt_out
    for each row execute function syncd.opt_out_changed();

create function syncd.erasure_requested() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into syncd.change (source, contact_id)
    select s.name, affected.contact_id
      from syncd.source s,
           lateral (select new.contact_id
                    union
                    select m.contact_id
                      from syncd.destination d
                      join syncd.mirror m on m.destination_id = d.id
                                         and m.email = lower(btrim(new.email))
                     where d.source = s.name
                    union
                    select * from syncd.in_flight_at(s.name, lower(btrim(new.email)))
                   ) affected (contact_id)
     where affected.contact_id is not null;
    perform pg_notify('syncd_change', s.name) from syncd.source s;
    return null;
end $$;
create trigger requested after insert on syncd.erasure
    for each row execute function syncd.erasure_requested();

-- Who may be mailed, and why not: for the company's own systems. One row per contact that a
-- destination knows of, and per list that it left there.
create view syncd.consent (source, contact_id, email, list_id, mailable, why, since) as
select d.source, m.contact_id, m.email, null::text,
       bool_and(m.subscribed and o.id is null),
       string_agg(distinct coalesce(o.kind || ' at ' || od.name,
                                    case when not m.subscribed then 'not subscribed' end), ', '),
       min(coalesce(o.occurred_at, o.observed_at))
  from syncd.destination d
  join syncd.mirror m on m.destination_id = d.id
  left join syncd.opt_out o
    on o.lifted_at is null and o.list_id is null
   and (o.email = m.email
        or (o.contact_id = m.contact_id and o.kind in ('unsubscribed', 'complained')))
   and (o.destination_id = d.id
        or (o.kind <> 'vanished'
            and exists (select 1 from syncd.destination s
                         where s.id = o.destination_id and s.source = d.source)
            and coalesce(d.options ->> 'opt_out_scope', 'source') = 'source'))
  left join syncd.destination od on od.id = o.destination_id
 group by d.source, m.contact_id, m.email
union all
select d.source, coalesce(o.contact_id, m.contact_id), coalesce(o.email, m.email), o.list_id,
       false, o.kind || ' at ' || d.name, coalesce(o.occurred_at, o.observed_at)
  from syncd.opt_out o
  join syncd.destination d on d.id = o.destination_id
  left join syncd.mirror m
    on m.destination_id = o.destination_id and o.contact_id is null and m.email = o.email
 where o.lifted_at is null and o.list_id is not null;
