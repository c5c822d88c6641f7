-- A destination: one CleverCampaign account that is kept in step with one source. Experimental.
--
--     psql -f config/clevercampaign.sql
--
-- As it stands it points at `syncd sandbox`, so that it can be rehearsed on one's own data; the
-- credential is printed there:
--
--     syncd sandbox &
--     export SYNCD_SECRET_CLEVERCAMPAIGN='{"api_key": "…", "secret_key": "…"}'
--     syncd plan clevercampaign && syncd backfill clevercampaign
--
-- For the real one: take base_url away, give the real credential. A running daemon takes up a
-- changed row within a second. Run this file as often as you like.
--
-- CleverCampaign documents the signature, and that a contact is made by POST, changed by PUT and
-- deleted by DELETE; nothing else. syncd writes only what rests on that, and always tries to read.
-- `syncd check` says what of the rest does not work, and which name to correct below, once the
-- provider has told you the right one. Newsletters are out of scope.

insert into syncd.destination (
    name, provider, source, credential, options, fields, lists, everyone, when_gone, when_list_gone,
    schedule, read_schedule, full_schedule, per_second, in_flight, per_day, guard_percent, guard_floor
) values (

    -- What you call it: in commands, in the log, and for its secret.
    'clevercampaign',

    -- Which adapter.
    'clevercampaign',

    -- A row of syncd.source: which tables or views hold contacts, lists and memberships.
    'default',

    -- The secret's name. Its value is JSON: {"api_key": …, "secret_key": …} as the account's
    -- settings show them and, if you like, "expires_on": "2027-01-31" (warned of from 30 days
    -- before). Looked for in the file $CREDENTIALS_DIRECTORY/clevercampaign, then in the variable
    -- SYNCD_SECRET_CLEVERCAMPAIGN.
    'clevercampaign',

    jsonb_build_object(
        -- Where requests go. Without it: https://clevercampaign.com/api. Credentials go nowhere
        -- else.
        'base_url', 'http://127.0.0.1:8800'

        -- Plain http to another host than this one: names and addresses travel in the clear.
        -- , 'allow_http', true

        -- Where the account cannot be read, nobody knows who is in it, and a create might make a
        -- second contact: so creates wait until this says that nobody is in it. A create whose
        -- answer is lost is then rejected as 'outcome unknown': look there, and `syncd retry`.
        -- Where the account can be read, this changes nothing.
        -- , 'account_is_empty', false

        -- What nobody has documented: the table of names, with the most usual ones. Paths are
        -- below base_url; {list_id} stands for a list's id.
        -- , 'contact_path', 'contact'
        -- , 'list_path', 'list'
        -- , 'member_path', 'list/{list_id}/contact'
        -- , 'update_verb', 'PUT'             -- or 'POST', 'PATCH'
        -- , 'find_param', 'email'            -- '' where contacts cannot be searched
        -- , 'page_param', 'page'             -- '' where one answer holds everything
        -- , 'size_param', 'pagesize'         -- '' where the size of a page cannot be asked for
        -- , 'first_page', 1                  -- or 0
        -- , 'page_size', 100
        -- , 'email_field', 'email'           -- other fields: see `fields` below
        -- , 'id_field', 'id'                 -- id, Id, ID and contactid are known beside it
        -- , 'status_field', 'status'         -- read always, written with write_unsubscribe
        -- , 'status_subscribed', 'subscribed'
        -- , 'status_unsubscribed', 'unsubscribed'
        -- , 'list_name_field', 'name'
        -- , 'member_id_field', 'contactid'
        -- , 'envelope', ''                   -- the key that wraps answers; '': guess

        -- Lists: off until you know that the names above are right. Without, only contacts are
        -- sent; memberships are listed as lacking.
        -- , 'lists_enabled', false

        -- How a no is conveyed: false deletes the contact, which is documented; true writes
        -- status_unsubscribed into status_field, and the record stays. The same for contacts that
        -- are withdrawn.
        -- , 'write_unsubscribe', false

        -- Whose opt-outs count here: of all destinations of this source ('source'), or only those
        -- made at this one ('destination').
        -- , 'opt_out_scope', 'source'

        -- Limits; 0 takes one away. There is one meter, 'api', for all requests.
        -- , 'meters', jsonb_build_object('api', jsonb_build_object('in_flight', 2))
    ),

    -- The provider's field → the source's column (or attributes.key). null: firstname and lastname,
    -- the only ones documented. Likely, but not known: company, phone, address, city, state, zip,
    -- country, birthday. All that is named here is sent on every change, and only a change of it
    -- costs a request.
    -- '{"firstname": "first_name", "lastname": "last_name", "city": "city"}'
    null,

    -- Ids of lists: who is in none of them does not belong here. null: everybody does.
    null,

    -- With lists set: send also contacts outside of them.
    false,

    -- A contact that leaves the source (or its lists): 'withdraw' (deleted, or unsubscribed with
    -- write_unsubscribe), 'delete', or 'keep' (stays as it is).
    'withdraw',

    -- A list that leaves the source: 'keep' (its members leave, the empty list stays) or 'delete'.
    'keep',

    -- When to look for changes: 'on change', an interval ('30s'), or five cron fields.
    'on change',

    -- How often opt-outs are read. CleverCampaign tells of none but by each contact's status.
    '15m',

    -- When everything is compared and the account is read, whatever the triggers said: at night.
    '17 3 * * *',

    -- Requests a second, requests at the same time, requests a day; null: 5, 4, no limit.
    -- CleverCampaign documents none.
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
