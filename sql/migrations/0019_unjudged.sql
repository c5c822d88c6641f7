-- A scan that is over and still claimed has told nobody yet who waits for it; there are hardly any.

create index scan_unjudged on syncd.scan (destination_id)
    where feed = 'contacts' and finished_at is not null and claimed_by is not null;

update syncd.scan set claimed_by = null where finished_at is not null and claimed_by is not null;
