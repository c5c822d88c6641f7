-- An existing database as the source of syncd: the Sakila DVD rental shop.
--
--     syncd migrate && psql -f config/sakila.sql
--
-- Your own tables stay as they are. Three views say what the marketing tools are to know; a row
-- in syncd.source names them; syncd.watch notes which customers a change concerns. Run this file
-- as often as you like: it replaces what it made.
--
-- A destination takes this source by `source = "sakila"`; its fields name the views' columns.

begin;

create schema if not exists marketing;

-- Who: one row a person. id may be an integer, a uuid or a text. The names of these columns are
-- the ones syncd maps by itself; any other column can be mapped in the destination's `fields`.
create or replace view marketing.contact as
select c.customer_id as id,
       c.email,
       c.first_name,
       c.last_name,
       concat_ws(', ', nullif(a.address, ''), nullif(a.address2, '')) as address,
       t.city,
       nullif(a.district, '') as state,
       nullif(a.postal_code, '') as postal_code,
       n.country,
       nullif(a.phone, '') as phone,
       c.activebool as subscribed,           -- false is obeyed: nobody is mailed who said no
       null::timestamptz as consented_at     -- no moment of consent is known: an opt-out stays
  from public.customer c
  join public.address a on a.address_id = c.address_id
  join public.city t on t.city_id = a.city_id
  join public.country n on n.country_id = t.country_id;

-- Which lists there are: one for each category of films.
create or replace view marketing.list as
select category_id as id, name from public.category;

-- Who is in them: every customer who has ever rented a film of the category.
create or replace view marketing.membership as
select distinct fc.category_id as list_id, r.customer_id as contact_id
  from public.rental r
  join public.inventory i on i.inventory_id = r.inventory_id
  join public.film_category fc on fc.film_id = i.film_id;

-- An address does not know whose it is: this view does (columns key and contact_id).
create or replace view marketing.contact_of_address as
select address_id as key, customer_id as contact_id from public.customer;

insert into syncd.source (name, contact, list, membership)
values ('sakila', 'marketing.contact', 'marketing.list', 'marketing.membership')
    on conflict (name) do update
   set contact = excluded.contact, list = excluded.list, membership = excluded.membership;

-- What is noticed within a second. The rest (a city renamed, a film moved to another category)
-- changes rarely and is found by the nightly full pass; a view and one more line would hasten it.
select syncd.watch('public.customer', 'customer_id', 'sakila');
select syncd.watch('public.rental', 'customer_id', 'sakila');
select syncd.watch('public.address', 'address_id', 'sakila', via => 'marketing.contact_of_address');

-- `syncd_runtime` (sql/roles.sql), under which the daemon runs, reads the views and nothing else.
do $$
begin
    if to_regrole('syncd_runtime') is not null then
        grant usage on schema marketing to syncd_runtime;
        grant select on all tables in schema marketing to syncd_runtime;
    end if;
end $$;

commit;
