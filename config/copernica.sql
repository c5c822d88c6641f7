-- A destination: one Copernica database that is kept in step with one source.
--
--     psql -f config/copernica.sql
--
-- As it stands it points at `syncd sandbox`, so that it can be rehearsed on one's own data; the
-- credential is printed there:
--
--     syncd sandbox &
--     export SYNCD_SECRET_COPERNICA='{"access_token": "…"}'
--     syncd plan copernica && syncd backfill copernica
--
-- For the real one: take base_url, auth_url and authorize_url away, name your database, map your own
-- fields, and give the real token. A running daemon takes up a changed row within a second. Run this
-- file as often as you like. config/copernica.toml says the same for `syncd apply`.
--
-- Copernica takes one contact a request, and bills requests: a first fill costs two a contact.
-- syncd makes its own fields there: the key field, a mark beside it (<key_field>_off) and, where
-- lists are fields, one a list. It changes nothing else that is not mapped.

insert into syncd.destination (
    name, provider, source, credential, options, fields, lists, everyone, when_gone, when_list_gone,
    schedule, read_schedule, full_schedule, per_second, in_flight, per_day, guard_percent, guard_floor
) values (

    -- What you call it: in commands, in the log, and for its secret.
    'copernica',

    -- Which adapter.
    'copernica',

    -- A row of syncd.source: which tables or views hold contacts, lists and memberships.
    'default',

    -- The secret's name. Its value is JSON: {"access_token": …}, made in the dashboard, and, if you
    -- like, "expires_on": "2027-01-31" (a token never expires by itself); or, for `syncd authorize`,
    -- which adds the token: {"client_id": …, "client_secret": …}. Looked for in the file
    -- $CREDENTIALS_DIRECTORY/copernica, then in the variable SYNCD_SECRET_COPERNICA. It travels in
    -- addresses; syncd shows them nowhere, but a proxy of yours might log them (v4 has no such need).
    'copernica',

    jsonb_build_object(
        -- Where requests go. Without it: https://api.copernica.com. Credentials go nowhere else.
        'base_url', 'http://127.0.0.1:8803',

        -- v4 only: where the token is exchanged for a pass of 24 hours, and the only other place
        -- that sees it. Without it: https://authenticate.copernica.com.
        'auth_url', 'http://127.0.0.1:8803/authenticate',

        -- The page that `syncd authorize` shows. Without it:
        -- https://www.copernica.com/en/authorize.
        'authorize_url', 'http://127.0.0.1:8803/en/authorize',

        -- Plain http to another host than this one: everything travels in the clear.
        -- 'allow_http', true,

        -- v1, v2, v3 or v4. v1 keeps lists in fields; from v2 on they may be interests, pages are
        -- ten times as long, and an erasure is complete.
        'version', 'v1',

        -- The database's id, or its name.
        'database', 'Contacts',

        -- The account's id, as `syncd check` shows it: a token of another account is refused. Without
        -- it: the account that was read first.
        -- 'account', '34',

        -- The field that holds our contact ids; made (indexed) if it is not there.
        -- 'key_field', 'sync_id',

        -- How lists are kept: 'field' (one each, its name begins with list_prefix) or 'interest'
        -- (one each, in interest_group; from v2 on). Without it: 'field' in v1, else 'interest'.
        -- Fields without the prefix, and interests of other groups, are never touched.
        -- 'lists_as', 'field',
        -- 'list_prefix', 'list_',
        -- 'interest_group', 'syncd',

        -- What the fields that unsubscribing writes hold for who is subscribed. The database's
        -- unsubscribe behaviour must change fields: `syncd check` says what it is, and where to
        -- set it. Best make these values the fields' defaults, or each create costs one more call.
        'subscribed_values', jsonb_build_object('newsletter', 'yes')

        -- Whose opt-outs count here: of all destinations of this source ('source'), or only those
        -- made at this one ('destination').
        -- , 'opt_out_scope', 'source'

        -- Limits; 0 takes one away. There is one meter, 'api', for all requests.
        -- , 'meters', jsonb_build_object('api', jsonb_build_object('in_flight', 2))
    ),

    -- The database's field → the source's column (or attributes.key). null: first_name, last_name,
    -- company, phone, address, city, state, zip, country and birth_date, as far as the columns are
    -- there. Spelling and case count: a name that is not there stops the destination, because
    -- Copernica would drop it without a word. The address goes to the field of the type email.
    null,

    -- Ids of lists: who is in none of them does not belong here. null: everybody does.
    null,

    -- With lists set: send also contacts outside of them.
    false,

    -- A contact that leaves the source (or its lists): 'withdraw' (no mail, out of our lists; who
    -- comes back is mailed again), 'delete' (the profile) or 'keep'.
    'withdraw',

    -- A list that leaves the source: 'keep' (its members leave, the empty list stays) or 'delete'
    -- (the field or the interest).
    'keep',

    -- When to look for changes: 'on change', an interval ('30s'), or five cron fields.
    'on change',

    -- How often opt-outs are read: one request, and one for each 100 (v1) or 1000 of them.
    '15m',

    -- When everything is compared and every profile is read, whatever the triggers said: at night.
    -- Deleted profiles are found by it, or when they are next changed.
    '17 3 * * *',

    -- Requests a second, requests at the same time, requests a day; null: no limit, 4, no limit.
    -- Copernica documents none.
    null, null, null,

    -- A day may remove, change or silence so many contacts: this share (percent) of those there,
    -- but always this many. More is held until a person approves it.
    10, 50
)
on conflict (name) do update
   set (provider, source, credential, options, fields, lists, everyone, when_gone, when_list_gone,
        schedule, read_schedule, full_schedule, per_second, in_flight, per_day, guard_percent,
        guard_floor)
     = (excluded.provider, excluded.source, excluded.credential, excluded.options, excluded.fields,
        excluded.lists, excluded.everyone, excluded.when_gone, excluded.when_list_gone,
        excluded.schedule, excluded.read_schedule, excluded.full_schedule, excluded.per_second,
        excluded.in_flight, excluded.per_day, excluded.guard_percent, excluded.guard_floor);
