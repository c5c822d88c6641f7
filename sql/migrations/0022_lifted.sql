-- Whose no was lifted by a person is looked up for everybody who is to be made at a provider: it may
-- have kept the no.
create index opt_out_lifted_contact on syncd.opt_out (contact_id) where lifted_at is not null;
create index opt_out_lifted_email on syncd.opt_out (email) where lifted_at is not null;
