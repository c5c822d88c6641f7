-- name: sent
-- Which erasures have been conveyed to a destination ($1), and what it called the records.
update syncd.erasure e
   set proof = e.proof || jsonb_build_object(
           $1::text, jsonb_build_object('sent_at', now(), 'contact_id', u.contact_id,
                                        'remote', u.remote::jsonb))
  from unnest($2::text[], $3::text[], $4::text[]) u (contact_id, email, remote)
 where e.finished_at is null
   and (e.contact_id = u.contact_id or lower(btrim(e.email)) = u.email);

-- name: unconfirmed
select e.id, e.proof -> $1::text ->> 'contact_id' as contact_id,
       e.proof -> $1::text ->> 'remote' as remote,
       (e.proof -> $1::text ->> 'sent_at')::timestamptz as sent_at
  from syncd.erasure e
 where e.finished_at is null and e.proof ? $1::text
   and not e.proof -> $1::text ?| array['confirmed_at', 'by_hand']
   and coalesce((e.proof -> $1::text ->> 'waiting_until')::timestamptz <= now(), true)
 order by e.id;

-- name: note
update syncd.erasure
   set proof = jsonb_set(proof, array[$2::text], proof -> $2::text || $3::jsonb)
 where id = $1::bigint;
