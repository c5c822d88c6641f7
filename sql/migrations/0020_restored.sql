-- A dump that is read back into the same cluster brings feeds of an hour ago along, and neither
-- another cluster's number nor a position ahead: but the table it makes has a number of its own.
alter table syncd.feed add column relation bigint;
comment on column syncd.feed.relation is
    'the oid of this table when the feed was last looked after; another one tells of a restore';
