-- name: sharers
select contact_id, email, holder, subscribed from syncd.sharer where destination_id = $1::int;

-- name: mirrored
-- What the provider was last given of these contacts.
select contact_id, email, fields, lists, subscribed, state
  from syncd.mirror
 where destination_id = $1::int and contact_id = any($2::text[]);

-- name: rejections
select contact_id, last_error
  from syncd.journal
 where destination_id = $1::int and contact_id = any($2::text[]) and state = 'rejected';
