-- A halt is lifted by changed credentials, also by a change that was made while nobody ran.
alter table syncd.feed add column halted_with text;
comment on column syncd.feed.halted_with is
    'fingerprint of the credential in use when the destination was halted; null: another reason';
