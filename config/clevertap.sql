-- A destination: one CleverTap project that is kept in step with one source.
--
--     psql -f config/clevertap.sql
--
-- As it stands it points at `syncd sandbox`, so that it can be rehearsed on one's own data:
--
--     syncd sandbox &
--     export SYNCD_SECRET_CLEVERTAP='{"account_id": "TEST-0A0-000-0A0Z", "passcode": "JDG-PAS-CODE"}'
--     syncd plan clevertap && syncd backfill clevertap
--
-- For the real one: take base_url away, set region, give the real credential. A running daemon
-- takes up a changed row within a second. Run this file as often as you like.

insert into syncd.destination (
    name, provider, source, credential, options, fields, lists, everyone, when_gone, when_list_gone,
    schedule, read_schedule, full_schedule, per_second, in_flight, per_day, guard_percent, guard_floor
) values (

    -- What you call it: in commands, in the log, and for its secret.
    'clevertap',

    -- Which adapter.
    'clevertap',

    -- A row of syncd.source: which tables or views hold contacts, lists and memberships.
    'default',

    -- The secret's name. Its value is JSON: {"account_id": …, "passcode": …} and, if you like,
    -- "expires_on": "2027-01-31" (warned of from 30 days before). Looked for in the file
    -- $CREDENTIALS_DIRECTORY/clevertap, then in the variable SYNCD_SECRET_CLEVERTAP.
    'clevertap',

    jsonb_build_object(
        -- Where requests go. Without it: the region's own host. Credentials go nowhere else.
        'base_url', 'http://127.0.0.1:8801'

        -- The project's region: 'in1', 'sg1', 'us1', 'aps3', 'mec1' or 'eu1'; without it
        -- api.clevertap.com. A wrong region looks just like a wrong passcode.
        -- , 'region', 'eu1'

        -- The profile property that holds the ids of a contact's lists; segments ask for
        -- "Lists contains news". It is one array of at most 100 values.
        -- , 'lists_property', 'Lists'

        -- The source column that is the profile's identity. Never change it later: every profile
        -- would be made a second time.
        -- , 'identity', 'id'

        -- Profiles that exist already: found by our identity only ('identity'), or by their
        -- address too ('email'; every new contact is then looked up before it is sent: two reads
        -- each). `syncd check` looks 50 addresses up and warns where 'email' is needed.
        -- , 'adopt', 'identity'

        -- Telephone numbers without a country code get this one (digits). Others are left out
        -- unless they begin with + or 00.
        -- , 'default_country_code', '49'

        -- An event raised once for every profile, which makes profiles countable by event.
        -- , 'marker_event', 'syncd'

        -- Your partner name, if CleverTap has whitelisted one; `check` then asks with it.
        -- , 'partner', 'example'

        -- Whose opt-outs count here: of all destinations of this source ('source'), or only those
        -- made at this one ('destination').
        -- , 'opt_out_scope', 'source'

        -- Limits of single meters; 0 takes one away. 'upload' are the writes, 'read' all else.
        -- , 'meters', jsonb_build_object('read', jsonb_build_object('in_flight', 2))
    ),

    -- The provider's field → the source's column (or attributes.key). null: First Name, Last Name,
    -- Phone, Company, Address, City, State, Zip, Country and DOB, as far as the columns are there.
    -- Only what is named here is sent, and only a change of it costs a request.
    -- '{"First Name": "first_name", "City": "city", "Plan": "attributes.plan"}'
    null,

    -- Ids of lists: who is in none of them does not belong here. null: everybody does.
    null,

    -- With lists set: send also contacts outside of them.
    false,

    -- A contact that leaves the source (or its lists): 'withdraw' stops mail and can be undone,
    -- 'delete' removes the profile, 'keep' leaves it as it is.
    'withdraw',

    -- A list that leaves the source: 'keep' or 'delete'. CleverTap has no lists of its own.
    'keep',

    -- When to look for changes: 'on change', an interval ('30s'), or five cron fields.
    'on change',

    -- How often opt-outs made at CleverTap are read.
    '15m',

    -- When everything is compared, whatever the triggers said: at night.
    '17 3 * * *',

    -- Requests a second, requests at the same time, requests a day; null: the provider's own
    -- limits (15 uploads at the same time, no rate, no quota).
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
