-- name: ids
-- Contacts of these destinations ($1) that are known by an address ($2).
select m.contact_id from syncd.mirror m where m.destination_id = any($1::int[]) and m.email = $2
union
select j.contact_id from syncd.journal j where j.destination_id = any($1::int[]) and j.email = $2
union
select s.contact_id from syncd.sharer s where s.destination_id = any($1::int[]) and s.email = $2
union
select o.contact_id from syncd.opt_out o
 where o.destination_id = any($1::int[]) and o.contact_id is not null
   and o.email_hash = encode(sha256(convert_to($2::text, 'UTF8')), 'hex')
union
select x.contact_id
  from syncd.erasing e
  join syncd.erasing x on x.erasure_id = e.erasure_id and x.contact_id is not null
 where e.email = $2
   and x.source in (select d.source from syncd.destination d where d.id = any($1::int[]));

-- name: mirror
select to_jsonb(m)::text from syncd.mirror m
 where m.destination_id = any($1::int[]) and (m.contact_id = any($2::text[]) or m.email = $3::text)
 order by m.destination_id, m.contact_id;

-- name: journal
select to_jsonb(j)::text from syncd.journal j
 where j.destination_id = any($1::int[]) and (j.contact_id = any($2::text[]) or j.email = $3::text)
 order by j.destination_id, j.contact_id;

-- name: sharer
select to_jsonb(s)::text from syncd.sharer s
 where s.destination_id = any($1::int[]) and (s.contact_id = any($2::text[]) or s.email = $3::text)
 order by s.destination_id, s.contact_id;

-- name: opt_out
select to_jsonb(o)::text from syncd.opt_out o
 where (o.destination_id = any($1::int[]) and o.contact_id = any($2::text[]))
    or o.email_hash = encode(sha256(convert_to($3::text, 'UTF8')), 'hex')
 order by o.id;

-- name: delivery
select to_jsonb(d)::text from syncd.delivery d
 where d.destination_id = any($1::int[]) and d.contact_id = any($2::text[]) and $3::text <> ''
 order by d.at;

-- name: seen
select to_jsonb(s)::text from syncd.seen s
 where s.destination_id = any($1::int[])
   and (lower(s.email) = $3::text or s.contact_id = any($2::text[])
        or (s.list_key = 'our own opt-outs' and s.remote_id = any($2::text[])))
 order by s.destination_id, s.list_key, s.remote_id;

-- name: staged
select to_jsonb(x)::text from syncd.staged x
 where x.destination_id = any($1::int[])
   and (x.email = $3::text or x.contact_id = any($2::text[]))
 order by x.destination_id, x.contact_id;

-- name: missing
select to_jsonb(x)::text from syncd.missing x
 where x.destination_id = any($1::int[]) and x.contact_id = any($2::text[]) and $3::text <> ''
 order by x.destination_id, x.list_key;

-- name: intent
select jsonb_build_object('destination_id', i.destination_id, 'claim', i.claim, 'at', i.at)::text
  from syncd.intent i
 where i.destination_id = any($1::int[])
   and (i.ids && $2::text[] or i.addresses && array[$3::text])
 order by i.claim;

-- name: change
select to_jsonb(c)::text from syncd.change c
 where c.source = $1::text and c.contact_id = any($2::text[])
 order by c.at;

-- name: erasure
-- Those that are going on, and (by $3) those whose tombstones are the person's.
select to_jsonb(e)::text from syncd.erasure e
 where e.contact_id = any($1::text[]) or e.email = $2::text or e.id = any($3::bigint[])
    or e.id in (select x.erasure_id from syncd.erasing x
                 where x.contact_id = any($1::text[]) or x.email = $2::text)
 order by e.id;

-- name: erasing
select to_jsonb(e)::text from syncd.erasing e
 where e.contact_id = any($1::text[]) or e.email = $2::text
 order by e.id;

-- name: tombstone
select to_jsonb(t)::text from syncd.tombstone t where t.hash = any($1::text[]) order by t.hash;

-- name: command
select to_jsonb(c)::text from syncd.command c
 where lower(btrim(c.args ->> 'email')) = $2::text
    or (jsonb_typeof(c.args -> 'contacts') = 'array' and c.args -> 'contacts' ?| $1::text[])
 order by c.id;

-- name: control_log
select to_jsonb(l)::text from syncd.control_log l
 where l.relation = 'opt_out' and l.row_name = any($1::text[])
 order by l.id;
