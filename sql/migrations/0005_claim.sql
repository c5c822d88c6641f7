-- The first half of a claim: lock and mark. Reading desired and mirror is a later statement of the
-- same transaction, so that it sees what is newer than the lock (races 5).

create index journal_capped on syncd.journal (destination_id, due_at)
    where state = 'due' and batch_cap is not null;
create index journal_job on syncd.journal (destination_id, due_at)
    where state = 'due' and receipt is not null;

-- Up to p_batch due rows of one destination become 'sent' under a new claim number. Each lower
-- lane that is not empty gets at least an eighth of the batch, so none starves (races 22). Rows
-- that were in a batch which crashed or could not be understood come in ever smaller batches of
-- their own (races 24). The ctids are those of rows locked a moment ago by this very statement.
create function syncd.claim(p_destination int, p_batch int, p_worker bigint)
returns setof syncd.journal
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    moment timestamptz := clock_timestamp();  -- not volatile: an index can be asked for it
    number bigint;
    lanes smallint[];
    left_over int := p_batch;
    cap int;
    step record;
    got int;
begin
    select j.batch_cap into cap from syncd.journal j
     where j.destination_id = p_destination and j.state = 'due' and j.batch_cap is not null
       and j.receipt is null and j.due_at <= moment
     order by j.due_at limit 1;
    number := nextval('syncd.claim_number');
    if cap is not null then
        return query
        update syncd.journal j
           set state = 'sent', claim = number, claimed_by = p_worker, attempts = j.attempts + 1,
               again = false, holds = null
         where j.ctid = any(array(
             select c.ctid from syncd.journal c
              where c.destination_id = p_destination and c.state = 'due' and c.batch_cap = cap
                and c.receipt is null and c.due_at <= moment
              order by c.due_at, c.contact_id limit least(cap, p_batch) for update skip locked))
        returning j.*;
        return;
    end if;
    lanes := array(  -- mostly one
        select l.lane from (values (0::smallint), (1::smallint), (2::smallint), (3::smallint)) l (lane)
         where (select c.lane from syncd.journal c
                 where c.destination_id = p_destination and c.lane = l.lane and c.state = 'due'
                   and c.due_at <= moment and c.batch_cap is null and c.receipt is null
                 order by c.due_at, c.contact_id limit 1) is not null
         order by l.lane);
    for step in
        select s.lane, s.most
          from (select l, greatest(1, p_batch / 8), 1, -l from unnest(lanes[2:]) l
                union all
                select l, p_batch, 2, l from unnest(lanes) l) s (lane, most, round, place)
         order by s.round, s.place
    loop
        exit when left_over <= 0;
        return query
        update syncd.journal j
           set state = 'sent', claim = number, claimed_by = p_worker, attempts = j.attempts + 1,
               again = false, holds = null
         where j.ctid = any(array(
             select c.ctid from syncd.journal c
              where c.destination_id = p_destination and c.lane = step.lane and c.state = 'due'
                and c.due_at <= moment and c.batch_cap is null and c.receipt is null
              order by c.due_at, c.contact_id limit least(step.most, left_over)
                for update skip locked))
        returning j.*;
        get diagnostics got = row_count;
        left_over := left_over - got;
    end loop;
end $$;

-- Whether a row's plan is still to be decided: while it was in flight somebody wanted it removed.
create function syncd.plan_waits(p_plan bigint) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
return exists (select 1 from syncd.plan p where p.id = p_plan and p.state in ('open', 'held'));

-- All rows of the bulk job that has waited longest, together.
create function syncd.claim_job(p_destination int, p_worker bigint)
returns setof syncd.journal
language plpgsql set search_path = pg_catalog, pg_temp as $$
declare
    moment timestamptz := clock_timestamp();
    job jsonb;
    number bigint;
begin
    select j.receipt into job from syncd.journal j
     where j.destination_id = p_destination and j.state = 'due' and j.receipt is not null
       and j.due_at <= moment
     order by j.due_at limit 1;
    if job is null then
        return;
    end if;
    number := nextval('syncd.claim_number');
    return query
    update syncd.journal j
       set state = 'sent', claim = number, claimed_by = p_worker, again = false, holds = j.email
     where j.ctid = any(array(
         select c.ctid from syncd.journal c
          where c.destination_id = p_destination and c.state = 'due' and c.receipt = job
          order by c.contact_id for update skip locked))
    returning j.*;
end $$;
