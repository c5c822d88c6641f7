-- Whose account a destination was filled from, so that another one behind the same secret is noticed.

alter table syncd.feed add column account text, add column account_with text;
comment on column syncd.feed.account is
    'the remote account, as its answers name it, or a hash of the name in the credential';
comment on column syncd.feed.account_with is
    'fingerprint of the credential that was last found to be of that account';
