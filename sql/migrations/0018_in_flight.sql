-- What is in flight has one index, by address. Beside one by worker the planner, who thinks that
-- nearly nothing is in flight, looks for an address through all that is, once for every contact
-- that is claimed. Few rows are ever in flight, so that their workers are found without an index.
drop index syncd.journal_sent;
