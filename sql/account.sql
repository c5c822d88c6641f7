-- name: pinned
select account, account_with from syncd.feed where destination_id = $1::int;

-- name: pin
-- Before anything has been read there, nothing can have been written: it may still be another one.
update syncd.feed f
   set account = $2::text, account_with = $3::text
 where f.destination_id = $1::int
   and (f.account is null or f.account = $2::text
        or (f.read_at is null
            and not exists (select 1 from syncd.mirror m where m.destination_id = $1::int)))
returning account;
