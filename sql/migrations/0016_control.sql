-- What no destination can mean is refused by its row; a no outlives the destination it was told at.

-- Not validated: a row that is wrong already does not keep anybody from updating syncd.
alter table syncd.destination
    add constraint destination_per_second_finite check (per_second < 'infinity') not valid,
    add constraint destination_credential_name
        check (credential ~ '^[A-Za-z0-9_.-]{1,128}$') not valid,
    add constraint destination_lists_known check (array_position(lists, null) is null) not valid,
    add constraint destination_fields_named
        check (not jsonb_path_exists(fields, '$.* ? (@.type() != "string")')) not valid;

-- An opt-out counts at every destination of the source. Once its own destination is removed, only
-- this says of which source it was.
alter table syncd.opt_out
    add column of_source text references syncd.source on update cascade on delete set null;
comment on column syncd.opt_out.of_source is
    'of a destination that was removed: the source for whose destinations it goes on counting';
create index opt_out_removed on syncd.opt_out (of_source) where of_source is not null;

create function syncd.keep_opt_outs() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    update syncd.opt_out o set of_source = old.source
     where o.destination_id = old.id and o.of_source is null;
    return null;
end $$;
create trigger keep_opt_outs after delete on syncd.destination
    for each row execute function syncd.keep_opt_outs();

-- Such a no is lifted: whoever has the address is looked at again.
create function syncd.removed_opt_out_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into syncd.change (source, contact_id)
    select new.of_source, affected.contact_id
      from (select new.contact_id
            union
            select m.contact_id
              from syncd.destination d
              join syncd.mirror m on m.destination_id = d.id and m.email = new.email
             where d.source = new.of_source
            union
            select * from syncd.in_flight_at(new.of_source, new.email)) affected (contact_id)
     where affected.contact_id is not null;
    perform pg_notify('syncd_change', new.of_source);
    return null;
end $$;
create trigger changed_of_removed after update of lifted_at on syncd.opt_out
    for each row when (new.of_source is not null)
    execute function syncd.removed_opt_out_changed();

create or replace view syncd.consent (source, contact_id, email, list_id, mailable, why, since) as
select d.source, m.contact_id, m.email, null::text,
       bool_and(m.subscribed and o.id is null),
       string_agg(distinct coalesce(o.kind || ' at ' || coalesce(od.name, 'a removed destination'),
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
            and (o.of_source = d.source
                 or exists (select 1 from syncd.destination s
                             where s.id = o.destination_id and s.source = d.source))
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
