-- Whose record a look-up has found: by the provider's own id of it, wherever the mirror thinks it is.
-- Costs nothing where records are known by our id: nothing is remembered of them.
create index mirror_remote on syncd.mirror using gin (remote jsonb_path_ops)
    where remote is not null;
