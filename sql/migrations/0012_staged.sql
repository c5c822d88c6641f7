-- What a full pass is about to send for the first time, beside the intent of its window: it becomes
-- mirror rows when the provider has acknowledged it, without having travelled to us and back.

-- Not logged, because it need not outlive a crash of PostgreSQL: what the intent names is in doubt
-- then anyhow, and sent again.
create unlogged table syncd.staged (
    destination_id int not null,
    claim bigint not null,
    contact_id text collate "C" not null,
    email text not null,
    fields jsonb not null,
    lists text[] not null,
    remote jsonb,
    digest uuid not null
);
create index staged_claim on syncd.staged (claim);
comment on table syncd.staged is
    'contacts of a window that is in flight, as they are being given to the provider';
alter table syncd.staged alter fields set storage external;

-- How many claims were made, at all destinations: one that was made since a window was read may have
-- given one of its addresses away. Moved under the turn that claims and windows take.
create sequence syncd.claims_made;
select nextval('syncd.claims_made');

alter table syncd.intent alter ids set storage external, alter addresses set storage external;

-- No plan depends on how these values are spread, and looking at them is most of what ANALYZE does.
alter table syncd.mirror alter fields set statistics 0, alter lists set statistics 0,
                         alter remote set statistics 0, alter lacking set statistics 0,
                         alter digest set statistics 0, alter contact_id set statistics 10,
                         alter email set statistics 10, alter pushed_at set statistics 10;

-- Whether the guard lets p_n more of a kind pass in a day; if it does, they are counted: one row a
-- minute, dated its start, for a day of single changes must not be a million rows to add up.
-- `held`: the plan of this kind that waits, with which everything waits. Without a kind, all pass.
-- Whoever counts holds the feed's lock.
create function syncd.take_room(p_destination int, p_kind text, p_n bigint, p_floor int,
                                p_percent real, out held bigint, out passes boolean)
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    here bigint;
    today bigint;
    minute timestamptz := date_trunc('minute', now());
begin
    passes := p_kind is null;
    if passes then
        return;
    end if;
    select p.id into held from syncd.plan p
     where p.destination_id = p_destination and p.kind = p_kind and p.state = 'held';
    if held is not null then
        return;
    end if;
    select f.here + coalesce((select sum(t.n) from syncd.tally t
                               where t.destination_id = p_destination and t.kind = 'here'), 0)
      into here from syncd.feed f where f.destination_id = p_destination;
    select coalesce(sum(t.n), 0) into today from syncd.tally t
     where t.destination_id = p_destination and t.kind = p_kind
       and t.at > now() - interval '24 hours';
    passes := p_n <= greatest(p_floor, floor(here * p_percent / 100)) - today;
    if passes then
        update syncd.tally t set n = t.n + p_n
         where t.destination_id = p_destination and t.kind = p_kind and t.at = minute;
        if not found then
            insert into syncd.tally (destination_id, kind, n, at)
            values (p_destination, p_kind, p_n, minute);
        end if;
    end if;
end $$;
