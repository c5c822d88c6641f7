-- What the planner believes of tables that nobody has analysed yet (races 30). Without statistics
-- it takes `destination_id = 1` for one row in two hundred, finds that cheaper than a thousand
-- look-ups by key, and reads all of a destination for every claim of its first backfill. So a new
-- installation's tables are shown to it once with rows that say the truth of most installations:
-- one destination, keys that are unique. TRUNCATE forgets the rows, not what was learned of them.

do $$
begin
    if exists (select from syncd.journal) or exists (select from syncd.mirror)
       or exists (select from syncd.sharer) or exists (select from syncd.change)
       or exists (select from syncd.contact) or exists (select from syncd.list) then
        return;
    end if;
    insert into syncd.journal (destination_id, contact_id, wish, lane, state)
    values (0, '0', 'upsert', 3, 'due');
    insert into syncd.mirror (destination_id, contact_id, email, subscribed, state)
    values (0, '0', '', true, 'here');
    insert into syncd.sharer (destination_id, contact_id, email, holder, subscribed)
    values (0, '0', '', '0', true);
    insert into syncd.contact (id, email) values ('0', '');
    insert into syncd.list (id, name) values ('0', '0');
    insert into syncd.membership (list_id, contact_id) values ('0', '0');
    alter table syncd.journal alter destination_id set (n_distinct = 1),
                              alter lane set (n_distinct = 1);
    alter table syncd.mirror alter destination_id set (n_distinct = 1),
                             alter state set (n_distinct = 1);
    alter table syncd.sharer alter destination_id set (n_distinct = 1);
    alter table syncd.membership alter list_id set (n_distinct = 1);
    analyze syncd.journal, syncd.mirror, syncd.sharer, syncd.contact, syncd.list, syncd.membership;
    alter table syncd.journal alter destination_id reset (n_distinct),
                              alter lane reset (n_distinct);
    alter table syncd.mirror alter destination_id reset (n_distinct),
                             alter state reset (n_distinct);
    alter table syncd.sharer alter destination_id reset (n_distinct);
    alter table syncd.membership alter list_id reset (n_distinct);
    truncate syncd.journal, syncd.mirror, syncd.sharer, syncd.contact, syncd.list,
             syncd.membership;
    truncate syncd.change;
end $$;
