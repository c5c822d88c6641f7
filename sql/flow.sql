-- name: pending
select exists (select 1 from syncd.journal where destination_id = $1::int and state = 'due') as due,
       exists (select 1 from syncd.journal where destination_id = $1::int and state = 'sent') as sent,
       exists (select 1 from syncd.intent where destination_id = $1::int) as windows;

-- name: waiting
-- What of the rows planned until then ($2; null: until now) is still to be done; whether a bulk job
-- of the provider has some of them, or a scan that gets on, however long it takes.
select count(*) as n,
       coalesce(bool_or(j.receipt is not null or j.waits_for is not null and exists (
           select 1 from syncd.scan s
            where s.destination_id = $1::int and s.feed = 'contacts' and s.finished_at is null
              and s.list_key = any(j.waits_for)
              and s.moved_at > clock_timestamp() - interval '30 s')), false) as jobs,
       clock_timestamp() as now
  from syncd.journal j
 where j.destination_id = $1::int and j.state in ('due', 'sent')
   and ($2::timestamptz is null or j.planned_at <= $2::timestamptz);

-- name: reasons
-- Why what is due was not done, the most frequent first.
select j.last_error as why, count(*) as n
  from syncd.journal j
 where j.destination_id = $1::int and j.state in ('due', 'sent')
 group by j.last_error
 order by n desc, why
 limit 3;

-- name: counts
-- How a destination stands, for status and for the summary of a backfill.
select d.name,
       count(*) filter (where j.state in ('due', 'sent')) as pending,
       count(*) filter (where j.state = 'held') as held,
       count(*) filter (where j.state = 'rejected') as rejected,
       count(*) filter (where j.doubtful) as doubtful,
       min(j.planned_at) filter (where j.state in ('due', 'sent')) as pending_since
  from syncd.destination d
  left join syncd.journal j on j.destination_id = d.id
 where d.id = any($1::int[])
 group by d.name;

-- name: due
select count(*) from syncd.journal where destination_id = $1::int and state in ('due', 'sent');

-- name: unconveyed
-- Contacts that said no where the provider could not be told so. As `status.lacking` has it, but for
-- those that are counted as rejected.
select count(*) from syncd.mirror m
 where m.destination_id = $1::int and m.lacking <> '{}' and not m.subscribed
   and exists (select 1 from unnest(m.lacking) u (what) where u.what !~ '^(field|list):');

-- name: is_read
select read_at is not null from syncd.feed where destination_id = $1::int;

-- name: quota_again
-- Whoever waits for the day to end ($2: the reason) is due: the quota may be another one by now, and
-- asking the meter costs no request.
with lists as (
    update syncd.list_mirror l set due_at = now()
     where l.destination_id = $1::int and l.state = 'due' and l.due_at > now()
       and l.last_error like $2::text
)
update syncd.journal j set due_at = now()
 where j.destination_id = $1::int
   and j.contact_id = any(array(
           select w.contact_id from syncd.journal w
            where w.destination_id = $1::int and w.state = 'due' and w.due_at > now()
              and w.last_error like $2::text
            order by w.contact_id
              for no key update skip locked));
