-- Everything syncd keeps: the source's default tables, the control plane, the state.
-- Hot tables (journal, mirror, change) carry no foreign keys: a check of one would lock rows in
-- another order than the writers do (races 19). Impossible rows are forbidden by CHECKs.

create schema if not exists syncd;

-- ── Source ────────────────────────────────────────────────────────────────────────────────

create table syncd.source (
    name text primary key check (name <> ''),
    contact text not null default 'syncd.contact',
    list text not null default 'syncd.list',
    membership text not null default 'syncd.membership',
    updated_at timestamptz not null default now()
);
insert into syncd.source (name) values ('default');

create table syncd.contact (
    id text collate "C" primary key check (id <> '' and id = btrim(id)),
    email text,
    first_name text,
    last_name text,
    company text,
    phone text,
    address text,
    city text,
    state text,
    postal_code text,
    country text,
    birth_date date,
    subscribed boolean not null default true,
    consented_at timestamptz,
    attributes jsonb not null default '{}' check (jsonb_typeof(attributes) = 'object'),
    updated_at timestamptz not null default now()
);
create index contact_address on syncd.contact (lower(email));

create table syncd.list (
    id text collate "C" primary key check (id <> '' and id = btrim(id)),
    name text not null unique check (name <> '')
);

create table syncd.membership (
    list_id text collate "C" not null references syncd.list on delete cascade on update cascade,
    contact_id text collate "C" not null
        references syncd.contact on delete cascade on update cascade,
    primary key (contact_id, list_id)
);
create index membership_list on syncd.membership (list_id);

-- ── Control plane: a person edits these rows ──────────────────────────────────────────────

create table syncd.destination (
    id int generated always as identity primary key,
    name text not null unique check (name ~ '^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$'),
    provider text not null check (provider ~ '^[a-z][a-z0-9_]*$'),
    source text not null default 'default' references syncd.source on update cascade,
    options jsonb not null default '{}' check (jsonb_typeof(options) = 'object'),
    credential text check (credential <> ''),
    fields jsonb check (jsonb_typeof(fields) = 'object'),
    lists text[],
    everyone boolean not null default false check (not everyone or lists is not null),
    when_gone text not null default 'withdraw' check (when_gone in ('withdraw', 'delete', 'keep')),
    when_list_gone text not null default 'keep' check (when_list_gone in ('keep', 'delete')),
    schedule text not null default 'on change' check (schedule <> ''),
    read_schedule text not null default '15m' check (read_schedule <> ''),
    full_schedule text not null default '17 3 * * *' check (full_schedule <> ''),
    per_second real check (per_second > 0),
    in_flight int check (in_flight > 0),
    per_day int check (per_day > 0),
    guard_percent real not null default 10 check (guard_percent between 0 and 100),
    guard_floor int not null default 50 check (guard_floor >= 0),
    paused boolean not null default false,
    halted text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table syncd.command (
    id bigint generated always as identity primary key,
    kind text not null check (kind in ('sync', 'full', 'backfill', 'scan', 'audit', 'retry',
                                       'approve', 'discard', 'lift')),
    destination text,
    args jsonb not null default '{}' check (jsonb_typeof(args) = 'object'),
    requested_by text not null default current_user,
    requested_at timestamptz not null default now(),
    claimed_by bigint,
    finished_at timestamptz,
    outcome text check (outcome in ('done', 'failed')),
    result jsonb,
    check ((finished_at is null) = (outcome is null))
);
create index command_open on syncd.command (id) where finished_at is null;

create table syncd.erasure (
    id bigint generated always as identity primary key,
    contact_id text collate "C",
    email text,
    requested_at timestamptz not null default now(),
    finished_at timestamptz,
    proof jsonb not null default '{}',
    check (finished_at is not null or contact_id is not null or email is not null)
);
create index erasure_contact on syncd.erasure (contact_id) where finished_at is null;

-- ── The feed of changes ───────────────────────────────────────────────────────────────────

create table syncd.change (
    source text not null,
    contact_id text collate "C",
    list_id text collate "C",
    gone boolean not null default false,
    xid xid8 not null default pg_current_xact_id(),
    at timestamptz not null default clock_timestamp()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
        autovacuum_vacuum_insert_threshold = 100000, autovacuum_analyze_threshold = 20000);
create index change_order on syncd.change (source, xid);
comment on table syncd.change is
    'Keys that changed. Neither contact nor list: every destination of the source owes a full pass.';

create table syncd.feed (
    destination_id int primary key references syncd.destination on delete cascade,
    position pg_snapshot,
    owes_full boolean not null default true,
    here bigint not null default 0 check (here >= 0),
    generation text,
    system_identifier bigint,
    timeline int,
    pass_run bigint,
    pass_by bigint,
    read_at timestamptz,
    planned_at timestamptz,
    check ((pass_run is null) = (pass_by is null))
) with (fillfactor = 50);
comment on column syncd.feed.here is 'mirror rows in state here, up to the tally rows not folded in';

create table syncd.tally (
    destination_id int not null,
    kind text not null check (kind in ('here', 'remove', 'change', 'opt_out')),
    n bigint not null,
    at timestamptz not null default now()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
create index tally_recent on syncd.tally (destination_id, kind, at);
comment on table syncd.tally is 'what the guard counts (a rolling day), and changes of feed.here';

-- ── What is to be done, and what was done ─────────────────────────────────────────────────

create table syncd.plan (
    id bigint generated always as identity primary key,
    destination_id int not null references syncd.destination on delete cascade,
    kind text not null check (kind in ('remove', 'change', 'opt_out')),
    state text not null default 'open'
        check (state in ('open', 'held', 'approved', 'discarded', 'released')),
    run_id bigint,
    reason text,
    created_at timestamptz not null default now(),
    decided_at timestamptz,
    decided_by text,
    check ((state in ('open', 'held')) = (decided_at is null)),
    check (state <> 'held' or reason is not null)
);
create unique index plan_one_undecided on syncd.plan (destination_id, kind)
    where state in ('open', 'held');
comment on table syncd.plan is
    'removals, changes or opt-outs of one destination that wait: for the end of a full pass (open)'
    ' or for a person (held); its rows are journal rows of that plan_id';

create sequence syncd.claim_number;

create table syncd.journal (
    destination_id int not null,
    contact_id text collate "C" not null,
    wish text not null check (wish in ('upsert', 'remove')),
    lane smallint not null check (lane between 0 and 3),
    state text not null check (state in ('due', 'sent', 'held', 'rejected')),
    digest uuid,
    email text check (email = lower(email)),
    holds text,
    doubtful boolean not null default false,
    again boolean not null default false,
    claim bigint,
    claimed_by bigint,
    attempts int not null default 0 check (attempts >= 0),
    crashes int not null default 0 check (crashes >= 0),
    batch_cap int check (batch_cap > 0),
    force boolean not null default false,
    due_at timestamptz not null default now(),
    planned_at timestamptz not null default now(),
    plan_id bigint,
    sent_lists text[],
    silenced boolean not null default false,
    receipt jsonb,
    last_status int,
    last_error text,
    primary key (destination_id, contact_id),
    check ((state = 'sent') = (claimed_by is not null)),
    check (state <> 'sent' or claim is not null),
    check (not again or state = 'sent'),
    check (state <> 'held' or plan_id is not null),
    check (state <> 'rejected' or last_error is not null)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 2000,
        autovacuum_vacuum_cost_delay = 0, autovacuum_analyze_threshold = 2000);
comment on column syncd.journal.silenced is
    'a try since the last acknowledged one turned mail off: whoever returns must be turned on again';
comment on column syncd.journal.sent_lists is
    'the lists of every try since the last acknowledged one: what a lost answer may have left there';
create index journal_due on syncd.journal (destination_id, lane, due_at, contact_id)
    where state = 'due';
create index journal_sent on syncd.journal (claimed_by) where state = 'sent';
create index journal_held on syncd.journal (plan_id, contact_id) where state = 'held';
create index journal_rejected on syncd.journal (destination_id) where state = 'rejected';
create unique index journal_address on syncd.journal (destination_id, holds) where state = 'sent';
comment on column syncd.journal.email is
    'under which address it was sent last; outlives the claim, so two rows may have the same';
comment on column syncd.journal.holds is
    'the address that its request in flight is about; null from the lock of a claim to its intent';
comment on index syncd.journal_address is
    'at most one request in flight for an address, whoever holds it (design, promise 2)';

create table syncd.intent (
    destination_id int not null,
    claim bigint not null,
    lo text,
    hi text not null,
    claimed_by bigint not null,
    ids text[] collate "C",
    addresses text[],
    lists text[],
    at timestamptz not null default clock_timestamp(),
    primary key (destination_id, claim)
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
comment on table syncd.intent is
    'windows (lo, hi] of source ids that a full pass has in flight; ids: what it is about to send';

create table syncd.mirror (
    destination_id int not null,
    contact_id text collate "C" not null,
    email text not null check (email = lower(email)),
    fields jsonb not null default '{}',
    lists text[] not null default '{}',
    subscribed boolean not null,
    digest uuid,
    state text not null check (state in ('here', 'withdrawn', 'absent', 'adopted')),
    remote jsonb,
    lacking text[] not null default '{}',
    pushed_at timestamptz not null default now(),
    primary key (destination_id, contact_id),
    check (state <> 'adopted' or digest is null)
) with (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.05, autovacuum_analyze_threshold = 5000);
create index mirror_address on syncd.mirror (destination_id, email);
create index mirror_lacking on syncd.mirror (destination_id) where lacking <> '{}';

create table syncd.sharer (
    destination_id int not null,
    contact_id text collate "C" not null,
    email text not null,
    holder text collate "C" not null,
    subscribed boolean not null,
    primary key (destination_id, contact_id)
);
create index sharer_address on syncd.sharer (destination_id, email);
comment on table syncd.sharer is
    'contacts of a destination whose address occurs more than once: one of them holds it there;'
    ' subscribed: whether all of them say yes';

create table syncd.list_mirror (
    destination_id int not null,
    list_id text collate "C" not null,
    name text not null,
    remote_id text,
    wanted text not null default 'present' check (wanted in ('present', 'absent')),
    state text not null default 'due'
        check (state in ('in step', 'due', 'sent', 'rejected', 'asks')),
    doubtful boolean not null default false,
    attempts int not null default 0,
    claim bigint,
    claimed_by bigint,
    due_at timestamptz not null default now(),
    last_error text,
    pushed_at timestamptz,
    primary key (destination_id, list_id),
    check ((state = 'sent') = (claimed_by is not null)),
    check (state not in ('rejected', 'asks') or last_error is not null),
    check (state <> 'in step' or wanted = 'absent' or remote_id is not null)
);

create table syncd.opt_out (
    id bigint generated always as identity primary key,
    destination_id int not null,
    contact_id text collate "C",
    email text check (email = lower(email)),
    email_hash text,
    list_id text collate "C",
    kind text not null check (kind in ('unsubscribed', 'bounced', 'complained', 'vanished')),
    occurred_at timestamptz,
    observed_at timestamptz not null default clock_timestamp(),
    evidence jsonb not null default '{}',
    lifted_at timestamptz,
    lifted_by text,
    check (contact_id is not null or email_hash is not null),
    check ((lifted_at is null) = (lifted_by is null))
);
create unique index opt_out_open on syncd.opt_out
    (destination_id, coalesce(email_hash, ''), coalesce(contact_id, ''), coalesce(list_id, ''),
     kind) where lifted_at is null;
create index opt_out_contact on syncd.opt_out (contact_id) where lifted_at is null;
create index opt_out_email on syncd.opt_out (email) where lifted_at is null;

create table syncd.seen (
    destination_id int not null,
    list_key text not null default '',
    remote_id text not null,
    email text,
    status text,
    scan_id bigint not null,
    missed int not null default 0,
    primary key (destination_id, list_key, remote_id)
);

create table syncd.scan (
    id bigint generated always as identity primary key,
    destination_id int not null references syncd.destination on delete cascade,
    feed text not null,
    list_key text not null default '',
    cursor jsonb,
    counts jsonb not null default '{}',
    claimed_by bigint,
    started_at timestamptz not null default now(),
    finished_at timestamptz,
    error text
);
create index scan_latest on syncd.scan (destination_id, feed, list_key, id);

create table syncd.account (
    scope text primary key,
    identity text,
    findings jsonb not null default '{}',
    credential_hash text,
    learned_at timestamptz
);

create table syncd.delivery (
    destination_id int not null,
    contact_id text collate "C" not null,
    kind text not null,
    outcome text not null,
    status int,
    error text,
    attempt int not null default 1,
    at timestamptz not null default now()
) partition by range (at);
create index delivery_contact on syncd.delivery (contact_id, at);
create table syncd.delivery_other partition of syncd.delivery default;

create table syncd.run (
    id bigint generated always as identity primary key,
    kind text not null,
    destination_id int,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    counts jsonb not null default '{}',
    error text,
    worker_id bigint
);
create index run_latest on syncd.run (destination_id, kind, id);

create table syncd.worker (
    id bigint generated always as identity primary key,
    host text not null,
    pid int not null,
    version text not null,
    started_at timestamptz not null default now(),
    alive_until timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

create table syncd.secret (
    name text primary key check (name <> ''),
    sealed bytea not null,
    updated_at timestamptz not null default now(),
    updated_by text not null default current_user
);

create table syncd.control_log (
    id bigint generated always as identity primary key,
    at timestamptz not null default clock_timestamp(),
    who text not null default session_user,
    relation text not null,
    row_name text not null,
    action text not null,
    old jsonb,
    new jsonb
);

-- ── Bells: control rows are noticed at once where someone listens ─────────────────────────

create function syncd.control_changed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    before jsonb := case when tg_op <> 'INSERT' then to_jsonb(old) - 'updated_at' end;
    after jsonb := case when tg_op <> 'DELETE' then to_jsonb(new) - 'updated_at' end;
begin
    if before is distinct from after then
        insert into syncd.control_log (relation, row_name, action, old, new)
        values (tg_table_name, coalesce(after, before) ->> 'name', lower(tg_op),
                (select jsonb_object_agg(b.key, b.value) from jsonb_each(before) b
                  where after is null or after -> b.key is distinct from b.value),
                (select jsonb_object_agg(a.key, a.value) from jsonb_each(after) a
                  where before is null or before -> a.key is distinct from a.value));
        perform pg_notify('syncd_control', tg_table_name);
    end if;
    return null;
end $$;

create function syncd.stamp_update() returns trigger language plpgsql as $$
begin
    new.updated_at := now();
    return new;
end $$;

create trigger stamp before update on syncd.destination
    for each row execute function syncd.stamp_update();
create trigger stamp before update on syncd.source
    for each row execute function syncd.stamp_update();
create trigger log after insert or update or delete on syncd.destination
    for each row execute function syncd.control_changed();
create trigger log after insert or update or delete on syncd.source
    for each row execute function syncd.control_changed();

create function syncd.ring_control() returns trigger language plpgsql as $$
begin
    perform pg_notify('syncd_control', tg_table_name);
    return null;
end $$;
create trigger ring after insert on syncd.command
    for each statement execute function syncd.ring_control();
create trigger ring after insert or update or delete on syncd.secret
    for each statement execute function syncd.ring_control();

create function syncd.begin_feed() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    insert into syncd.feed (destination_id) values (new.id);
    return null;
end $$;
create trigger begin_feed after insert on syncd.destination
    for each row execute function syncd.begin_feed();

create function syncd.forget_destination() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    relation text;
begin
    foreach relation in array array['journal', 'intent', 'mirror', 'sharer', 'list_mirror',
                                    'seen', 'tally'] loop
        execute format('delete from syncd.%I where destination_id = $1', relation) using old.id;
    end loop;
    return null;
end $$;
create trigger forget after delete on syncd.destination
    for each row execute function syncd.forget_destination();
