-- A held plan of which nothing is left waits for nobody: it ends, and what comes after it is judged
-- by the guard anew. Until now it went on holding whatever was of its kind.

-- Ends held plans (p_kind null: of every kind) without a row. Not counted are the rows of p_leaving,
-- which this transaction is about to free; counted are those in flight: they come back as held. One
-- row more than are leaving is proof enough that some stay.
-- Whoever calls it holds the feed's lock, as everybody does who adds a row or decides. What has
-- vanished is held by rows of `missing` (sql/absence.sql).
create function syncd.end_emptied(p_destination int, p_kind text, p_leaving text[])
returns bigint
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    ended bigint;
begin
    update syncd.plan p
       set state = 'discarded', decided_at = now(), decided_by = 'syncd: nothing is left of it'
     where p.destination_id = p_destination and p.state = 'held' and p.kind <> 'vanish'
       and p.kind = coalesce(p_kind, p.kind)
       and not exists (select h.contact_id
                         from (select j.contact_id from syncd.journal j
                                where j.plan_id = p.id and j.state = 'held'
                                limit cardinality(p_leaving) + 1) h
                       except select unnest(p_leaving))
       and not exists (select s.contact_id
                         from (select j.contact_id from syncd.journal j
                                where j.destination_id = p_destination and j.state = 'sent'
                                  and j.plan_id = p.id
                                limit cardinality(p_leaving) + 1) s
                       except select unnest(p_leaving));
    get diagnostics ended = row_count;
    return ended;
end $$;

-- As before, but a held plan that is empty ends, and holds nothing.
create or replace function syncd.take_room(p_destination int, p_kind text, p_n bigint, p_floor int,
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
        if syncd.end_emptied(p_destination, p_kind, '{}') = 0 then
            return;
        end if;
        held := null;
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
