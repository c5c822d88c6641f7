-- A destination: one RedCappi account that is kept in step with one source.
--
--     psql -f config/redcappi.sql
--
-- As it stands it points at `syncd sandbox`, so that it can be rehearsed on one's own data; the
-- credential is printed there:
--
--     syncd sandbox &
--     export SYNCD_SECRET_REDCAPPI='{"public_key": "…", "private_key": "…"}'
--     syncd plan redcappi && syncd backfill redcappi
--
-- For the real one: take base_url away, give the real credential. A running daemon takes up a
-- changed row within a second. Run this file as often as you like.
--
-- RedCappi takes one contact and one list a request, and politeness says ten a second: a first fill
-- of a million memberships takes 28 hours, and may put the account into manual review. Announce it.

insert into syncd.destination (
    name, provider, source, credential, options, fields, lists, everyone, when_gone, when_list_gone,
    schedule, read_schedule, full_schedule, per_second, in_flight, per_day, guard_percent, guard_floor
) values (

    -- What you call it: in commands, in the log, and for its secret.
    'redcappi',

    -- Which adapter.
    'redcappi',

    -- A row of syncd.source: which tables or views hold contacts, lists and memberships.
    'default',

    -- The secret's name. Its value is JSON: {"public_key": …, "private_key": …} as the dashboard
    -- shows them under "Extra" and, if you like, "expires_on": "2027-01-31" (warned of from 30 days
    -- before). Looked for in the file $CREDENTIALS_DIRECTORY/redcappi, then in the variable
    -- SYNCD_SECRET_REDCAPPI. A pair that is made anew there ends the old one at once.
    'redcappi',

    jsonb_build_object(
        -- Where requests go. Without it: https://api.redcappi.com. Credentials go nowhere else.
        'base_url', 'http://127.0.0.1:8804'

        -- Plain http to another host than this one: names and addresses travel in the clear. Only
        -- where the account's API does not answer to https.
        -- , 'allow_http', true

        -- Whether deleting a contact from one list takes it out of the others too: 'list' (no),
        -- 'account' (yes: then nobody is taken out of a single list; it is reported as lacking), or
        -- 'unknown': found out when the first contact leaves one list and stays in another.
        -- , 'delete_scope', 'unknown'

        -- What fills RedCappi's own column `name` where nothing is mapped to it: 'first last', or
        -- '' for nothing.
        -- , 'name_column', 'first last'

        -- How dates of birth are written, as in strftime. It is not documented; it is stored as
        -- text.
        -- , 'dob_format', '%Y-%m-%d'

        -- What the offset of a page counts: 'rows', 'pages', or 'auto': found out on the first
        -- list of two contacts or more.
        -- , 'offset_unit', 'auto'

        -- Contacts a page when a list is read. Halved by itself where the server does not manage.
        -- , 'page_size', 500

        -- Whose opt-outs count here: of all destinations of this source ('source'), or only those
        -- made at this one ('destination'). RedCappi tells of none: who opted out there vanishes.
        -- , 'opt_out_scope', 'source'

        -- Limits; 0 takes one away. There is one meter, 'api', for all requests.
        -- , 'meters', jsonb_build_object('api', jsonb_build_object('in_flight', 2))
    ),

    -- The provider's field → the source's column (or attributes.key). null: first_name, last_name,
    -- company, phone, address, city, state, zip_code, country and dob, as far as the columns are
    -- there. `name` is the twelfth field beside the address; RedCappi has no others.
    -- Only what is named here is sent, and only a change of it costs a request.
    -- '{"first_name": "first_name", "city": "city", "name": "attributes.nickname"}'
    null,

    -- Ids of lists: who is in none of them does not belong here. null: everybody does. RedCappi
    -- cannot hold a contact that is in no list at all.
    null,

    -- With lists set: send also contacts outside of them.
    false,

    -- A contact that leaves the source (or its lists): 'withdraw' and 'delete' are the same here,
    -- out of every list; 'keep' leaves it as it is.
    'withdraw',

    -- A list that leaves the source: 'keep' (its members leave, the empty list stays) or 'delete'.
    'keep',

    -- When to look for changes: 'on change', an interval ('30s'), or five cron fields.
    'on change',

    -- How often opt-outs are read. RedCappi tells of none.
    '15m',

    -- When everything is compared and every list is read, whatever the triggers said: at night.
    '17 3 * * *',

    -- Requests a second, requests at the same time, requests a day; null: 10, 4, no limit. RedCappi
    -- documents none.
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
