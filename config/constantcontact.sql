-- A destination: one Constant Contact account that is kept in step with one source.
--
--     psql -f config/constantcontact.sql
--
-- As it stands it points at `syncd sandbox`, so that it can be rehearsed on one's own data; the
-- credential is printed there:
--
--     syncd sandbox &
--     export SYNCD_SECRET_CONSTANTCONTACT='{"api_key": "…", "username": "…", "password": "…"}'
--     syncd plan constantcontact && syncd backfill constantcontact
--
-- For the real one: take base_url away, give the real credential. A running daemon takes up a
-- changed row within a second. Run this file as often as you like.
--
-- This is the provider's first interface (web services v1, HTTP Digest). Where it is not offered any
-- more the destination is halted with these words; nothing is tried again and again.

insert into syncd.destination (
    name, provider, source, credential, options, fields, lists, everyone, when_gone, when_list_gone,
    schedule, read_schedule, full_schedule, per_second, in_flight, per_day, guard_percent, guard_floor
) values (

    -- What you call it: in commands, in the log, and for its secret.
    'constantcontact',

    -- Which adapter.
    'constantcontact',

    -- A row of syncd.source: which tables or views hold contacts, lists and memberships.
    'default',

    -- The secret's name. Its value is JSON: {"api_key": …, "username": …, "password": …}: the key of
    -- the application, and the customer's login; if you like, also "expires_on": "2027-01-31"
    -- (warned of from 30 days before). Looked for in the file
    -- $CREDENTIALS_DIRECTORY/constantcontact, then in the variable SYNCD_SECRET_CONSTANTCONTACT.
    'constantcontact',

    jsonb_build_object(
        -- Where requests go. Without it: https://api.constantcontact.com. Credentials go nowhere
        -- else. Ids there begin with http://; they are names, never called.
        'base_url', 'http://127.0.0.1:8802'

        -- Plain http to another host than this one: names and addresses travel in the clear.
        -- , 'allow_http', true

        -- Which of the provider's two telephone numbers `Phone` is: 'WorkPhone' or 'HomePhone'.
        -- , 'phone_as', 'WorkPhone'

        -- How `State` is sent: 'auto' (a code for states of the US and provinces of Canada, else the
        -- name), or always as 'StateName'.
        -- , 'state_as', 'auto'

        -- From how many changes on they go as bulk jobs. The provider forbids jobs for less than
        -- 25. A field to clear, a status and a changed address go one by one whatever this says.
        -- , 'bulk_from', 25

        -- Seconds before a job is looked at; each further look doubles them, up to a minute.
        -- , 'poll_seconds', 5

        -- Whose opt-outs count here: of all destinations of this source ('source'), or only those
        -- made at this one ('destination').
        -- , 'opt_out_scope', 'source'

        -- Limits; 0 takes one away. There is one meter, 'api', for all requests of the API key: of
        -- several destinations that share the key the smallest value holds.
        -- , 'meters', jsonb_build_object('api', jsonb_build_object('in_flight', 2))
    ),

    -- The provider's field → the source's column (or attributes.key). null: FirstName, LastName,
    -- CompanyName, Phone, Address, City, State, PostalCode and Country, as far as the columns are
    -- there. `Phone`, `Address` (up to three lines), `State` and `Country` are ours and become the
    -- elements that fit; beside them there are MiddleName, JobTitle, HomePhone, WorkPhone, Addr1 to
    -- Addr3, StateCode, StateName, CountryCode, CountryName, SubPostalCode, Note, EmailType and
    -- CustomField1 to CustomField15. A birthday has no field of its own: give it a custom one. What
    -- is longer than the provider takes (50 characters mostly) is cut, and listed as lacking. Note
    -- and EmailType cannot be sent by jobs.
    -- Only what is named here is sent, and only a change of it costs a request.
    -- '{"FirstName": "first_name", "CustomField1": "birth_date", "CustomField2": "attributes.plan"}'
    null,

    -- Ids of lists: who is in none of them does not belong here. null: everybody does. Constant
    -- Contact cannot make a contact that is in no list at all.
    null,

    -- With lists set: send also contacts outside of them.
    false,

    -- A contact that leaves the source (or its lists): 'withdraw' and 'delete' are the same here,
    -- out of our lists, for contacts cannot be deleted there; 'keep' leaves it as it is.
    'withdraw',

    -- A list that leaves the source: 'keep' (its members leave, the empty list stays) or 'delete':
    -- only when nobody is in it any more; until then it is listed as rejected (`syncd retry`).
    'keep',

    -- When to look for changes: 'on change', an interval ('30s'), or five cron fields.
    'on change',

    -- How often opt-outs (Do Not Mail) are read.
    '15m',

    -- When everything is compared and every list is read, whatever the triggers said: at night.
    '17 3 * * *',

    -- Requests a second, requests at the same time, requests a day; null: 4, 4, 10000, as the
    -- provider's gateway has it for one API key.
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
