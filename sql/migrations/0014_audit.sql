-- What an audit has read of a provider, for as long as it runs: compared window by window, so that
-- memory does not grow with the number of contacts. Logged, for an audit that lost a part of it in a
-- crash would take everybody for missing.
create table syncd.audited (
    run_id bigint not null,
    list_key text not null default '',
    remote_id text not null,
    contact_id text collate "C",
    email text,
    subscribed boolean,
    lists text[] not null default '{}',
    fields jsonb,
    opted_out boolean not null default false,
    read_at timestamptz not null default clock_timestamp(),
    primary key (remote_id, list_key, run_id)
) with (autovacuum_vacuum_scale_factor = 0.05);
-- The only index that begins with the run: statistics are always of an earlier one, and with those no
-- plan must find it as good to read a whole run and to filter it.
create index audited_contact on syncd.audited (run_id, contact_id);
comment on table syncd.audited is
    'records that a running audit (run_id) has met; list_key: the remote list whose page it was;'
    ' contact_id: null = not ours; lists: remote ids; opted_out: no record, but an opt-out that was'
    ' news; read_at: when it was asked for';
