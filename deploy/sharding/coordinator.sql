-- Run once in a database of its own, the coordinator's, by a superuser. Then
-- name the shards (the passwords are kept in pg_user_mapping, which only
-- superusers and the mapping's owner read; keep them out of the server's log):
--   SET log_statement = 'none';
--   CALL likeness_add_shard('shard_1', '10.0.0.1', 5432, 'likeness', '...');
--   CALL likeness_add_shard('shard_2', '10.0.0.2', 5432, 'likeness', '...');
-- and search:
--   SELECT * FROM likeness_identify('tenant', 'gallery', 'model', '[...]', 5);
--
-- with a statement_timeout, for a shard that hangs. Each server must ANALYZE (as
-- autovacuum does): a shard without statistics is asked one after the other.
--
-- Each subject of a gallery lives on one shard, with all its templates; whoever
-- enrols chooses it, the same one each time (say, by a hash of the subject id).
-- A shard that does not answer fails the search: a list without it could say
-- that somebody is unknown who is not. So does a probe of another length than
-- the model's. A tenant, gallery or model that no shard knows gives no row.

CREATE EXTENSION IF NOT EXISTS vector;
CREATE EXTENSION IF NOT EXISTS postgres_fdw;

-- likeness_nearest fetches from every shard, at the same time, the n subjects
-- nearest to the probe, sorted and cut there. likeness_add_shard writes it.

CREATE PROCEDURE likeness_add_shard(shard name, host text, port integer, dbname text, password text, username text DEFAULT 'likeness_coordinator')
LANGUAGE plpgsql AS $procedure$
DECLARE
    branches text;
BEGIN
    -- extensions: without it every embedding comes over the wire to be compared
    -- here. use_remote_estimate: a shard knows how many templates a gallery has,
    -- and so that it pays to sort and cut them there. The timeouts: a machine
    -- that is gone says nothing.
    EXECUTE format('CREATE SERVER %I FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host %L, port %L, dbname %L,
        extensions ''vector'', async_capable ''true'', use_remote_estimate ''true'', fetch_size ''100'', application_name ''likeness_coordinator'',
        connect_timeout ''3'', tcp_user_timeout ''5000'', keepalives_idle ''3'', keepalives_interval ''1'', keepalives_count ''3'')',
        shard, host, port, dbname);
    EXECUTE format('CREATE USER MAPPING FOR CURRENT_USER SERVER %I OPTIONS (user %L, password %L)', shard, username, password);
    EXECUTE format('CREATE SCHEMA %I', shard);
    EXECUTE format('IMPORT FOREIGN SCHEMA likeness_shard LIMIT TO (searched) FROM SERVER %I INTO %1$I', shard);

    -- A branch for each shard: the planner pushes a LIMIT into a branch of a
    -- UNION ALL, and not through a partitioned table.
    SELECT string_agg(format($branch$(SELECT %L::text, t.subject_id, t.name, t.embedding <#> probe
            FROM %I.searched t
            WHERE t.tenant = in_tenant AND t.gallery = in_gallery AND t.model_id = in_model
            ORDER BY t.embedding <#> probe LIMIT n)$branch$, s.srvname, s.srvname), E'\n        UNION ALL ' ORDER BY s.srvname)
    INTO branches
    FROM pg_foreign_server s JOIN pg_namespace n ON n.nspname = s.srvname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'searched';
    EXECUTE format($function$CREATE OR REPLACE FUNCTION likeness_nearest(in_tenant text, in_gallery text, in_model text, probe vector, n integer)
        RETURNS TABLE (shard text, subject_id text, name text, distance float8) LANGUAGE sql STABLE AS %L$function$, branches);
END $procedure$;

-- likeness_identify is the k best subjects, exactly: a shard gives each of its
-- subjects once. Should a shard expect few rows where there are many, it sorts
-- all the same, for enable_sort is off, and only the first rows are fetched.
CREATE FUNCTION likeness_identify(in_tenant text, in_gallery text, in_model text, probe vector, k integer)
RETURNS TABLE (rank bigint, subject_id text, name text, score float8, shard text)
LANGUAGE plpgsql STABLE SET enable_sort = off SET jit = off SET plan_cache_mode = force_custom_plan AS $$
BEGIN
    IF k IS NULL OR k < 1 OR k > 1000 THEN
        RAISE invalid_parameter_value USING MESSAGE = 'k must be 1 to 1000';
    END IF;
    RETURN QUERY
        SELECT row_number() OVER (ORDER BY n.distance, n.subject_id COLLATE "C"), n.subject_id, n.name, -n.distance, n.shard
        FROM likeness_nearest(in_tenant, in_gallery, in_model, probe, k) n
        ORDER BY 1 LIMIT k;
END $$;
