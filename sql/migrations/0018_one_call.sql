-- What is in flight has one index, by address. Beside one by worker the planner, who thinks that
-- nearly nothing is in flight, looks for an address through all that is, once for every contact
-- that is claimed. Few rows are ever in flight, so that their workers are found without an index.
drop index syncd.journal_sent;

-- A scan that is asked for because the last one came too early for those who wait.
alter table syncd.scan add column not_before timestamptz;
comment on column syncd.scan.not_before is
    'what those who wait for it were given is not to be read earlier';
