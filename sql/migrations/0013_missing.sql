-- Whom two scans have missed is only gone if both began after the last write about it. What was noted
-- before did not say when: it is asked anew.

delete from syncd.missing;
alter table syncd.missing add column since timestamptz not null;
comment on column syncd.missing.since is
    'when the first of those scans began; a contact written since has not been missed';
