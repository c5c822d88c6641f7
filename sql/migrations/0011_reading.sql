-- Reading contacts back: what a scan has met and missed, who waits for one, what a person decides.

alter table syncd.seen add column contact_id text collate "C";
create index seen_contact on syncd.seen (destination_id, list_key, contact_id);
comment on table syncd.seen is
    'remote records that scans of a list (list_key: ours; '''' the whole account) have met;'
    ' scan_id: the last that did; missed: whole scans since; contact_id: null = not ours';

alter table syncd.scan
    add column begun_at timestamptz,
    add column moved_at timestamptz,
    add column remote_id text;
comment on column syncd.scan.started_at is 'when it was asked for; begun_at: first page asked';
comment on column syncd.scan.moved_at is 'when the cursor moved last: an old one is not resumed';
-- A list is asked for once, however many contacts wait for it.
create unique index scan_open on syncd.scan (destination_id, list_key)
    where feed = 'contacts' and finished_at is null;

create table syncd.missing (
    destination_id int not null,
    list_key text collate "C" not null,
    contact_id text collate "C" not null,
    scans int not null default 1 check (scans > 0),
    scan_id bigint not null,
    plan_id bigint,
    primary key (destination_id, list_key, contact_id)
);
create index missing_contact on syncd.missing (destination_id, contact_id);
create index missing_plan on syncd.missing (plan_id) where plan_id is not null;
comment on table syncd.missing is
    'contacts that a list should hold, and that so many whole scans in a row did not meet;'
    ' plan_id: too many at once, a person decides';

alter table syncd.journal
    add column waits_for text[],
    add column waits_since timestamptz,
    add column waited int not null default 0,
    add column left_lists text[],
    add check ((waits_for is null) = (waits_since is null));
create index journal_waits on syncd.journal (destination_id) where waits_for is not null;
create index journal_doubtful on syncd.journal (destination_id, email) where doubtful;
comment on column syncd.journal.waits_for is 'lists that must be scanned before it can be sent';
comment on column syncd.journal.left_lists is
    'lists that a try since the last acknowledged one was to leave: missing there is no news';
comment on column syncd.journal.waited is 'scans waited for that were no answer to a lost request';

alter table syncd.feed add column scanned_at timestamptz;
comment on column syncd.feed.scanned_at is 'when the account was first read: before any write';
alter table syncd.list_mirror add column scanned_at timestamptz;
comment on column syncd.list_mirror.scanned_at is
    'when it was made by us, or scanned first: nothing is written to a list before';

-- What vanished is counted, and held, apart from the opt-outs that people made.
alter table syncd.tally drop constraint tally_kind_check;
alter table syncd.tally add constraint tally_kind_check
    check (kind in ('here', 'remove', 'change', 'opt_out', 'vanish'));
alter table syncd.plan drop constraint plan_kind_check;
alter table syncd.plan add constraint plan_kind_check
    check (kind in ('remove', 'change', 'opt_out', 'vanish'));
comment on table syncd.plan is
    'removals, changes or opt-outs of one destination that wait: for the end of a full pass (open)'
    ' or for a person (held); its rows are journal rows of that plan_id, or rows of `missing`';

create or replace function syncd.forget_destination() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
declare
    relation text;
begin
    foreach relation in array array['journal', 'intent', 'mirror', 'sharer', 'list_mirror',
                                    'seen', 'missing', 'tally'] loop
        execute format('delete from syncd.%I where destination_id = $1', relation) using old.id;
    end loop;
    return null;
end $$;
