-- What a full pass is about to send for the first time, beside the intent of its window: it becomes
-- mirror rows when the provider has acknowledged it, without having travelled to us and back.

-- Not logged, because it need not outlive a crash of PostgreSQL: what the intent names is in doubt
-- then anyhow, and sent again.
create unlogged table syncd.staged (
    destination_id int not null,
    claim bigint not null,
    contact_id text collate "C" not null,
    email text collate "C" not null,
    fields jsonb not null,
    lists text[] not null,
    remote jsonb,
    digest uuid not null
);
create index staged_claim on syncd.staged (claim);
comment on table syncd.staged is
    'contacts of a window that is in flight, as they are being given to the provider';
alter table syncd.staged alter fields set storage external;

-- No plan depends on how these values are spread, and looking at them is most of what ANALYZE does.
alter table syncd.mirror alter fields set statistics 0, alter lists set statistics 0,
                         alter remote set statistics 0, alter lacking set statistics 0,
                         alter digest set statistics 0, alter contact_id set statistics 10,
                         alter email set statistics 10, alter pushed_at set statistics 10;
