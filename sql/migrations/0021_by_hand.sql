-- What a provider cannot delete by its interface is done by a person, who says so here; until then
-- `syncd status` asks for it.
alter table syncd.erasure add column done_by_hand text[] not null default '{}';
comment on column syncd.erasure.done_by_hand is
    'destinations at which a person has done what `proof` says is to be done by hand';
