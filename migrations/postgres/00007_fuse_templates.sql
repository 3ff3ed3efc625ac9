-- Several templates of a subject are compared as one, their mean, divided by the
-- power 9/16 of its length. One template of each subject and model is searched:
-- the first by id. Where there are more, it bears what is compared in the column
-- fused. Servers score whom a search finds from the templates themselves, so its
-- last digits do not matter.

-- +goose Up
ALTER TABLE template
    ADD COLUMN searched boolean NOT NULL DEFAULT true,
    ADD COLUMN fused    vector; -- null: the embedding itself
ALTER TABLE template ALTER COLUMN fused SET STORAGE MAIN;

-- Chooses and fuses anew for subjects and models (rows of gallery_model), given
-- as pairs. Whoever calls it has locked the rows of gallery_model. What is
-- damaged is left out. Embeddings whose mean is nearly nothing cancel out: the
-- first stands for all. The settings leave the planner nothing to choose but the
-- index of a subject's templates.
-- +goose StatementBegin
CREATE FUNCTION fuse_templates(of_subjects bigint[], of_shelves bigint[]) RETURNS void LANGUAGE plpgsql
    SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    UPDATE template t SET searched = f.first, fused = f.mean
    FROM unnest(of_subjects, of_shelves) AS pair (subject, shelf) CROSS JOIN LATERAL (
        SELECT x.row_id, x.first, CASE WHEN x.first AND x.n > 1 AND vector_norm(x.mean) >= 1e-3
            THEN x.mean * array_fill((vector_norm(x.mean) ^ -0.5625)::real, ARRAY[vector_dims(x.mean)])::vector END AS mean
        FROM (
            SELECT s.row_id, row_number() OVER (ORDER BY NOT s.sound, s.id) = 1 AS first, count(*) OVER () AS n,
                avg(s.embedding) FILTER (WHERE s.sound) OVER () AS mean
            FROM (
                SELECT e.row_id, e.id, e.embedding,
                    vector_dims(e.embedding) = m.dimension AND abs(vector_norm(e.embedding) - 1) <= 1e-3 AS sound
                FROM template e JOIN gallery_model m ON m.row_id = e.gallery_model
                WHERE e.subject = pair.subject AND e.gallery_model = pair.shelf
            ) s
        ) x
    ) f
    WHERE t.row_id = f.row_id AND (t.searched <> f.first OR t.fused IS DISTINCT FROM f.mean);
END $$;
-- +goose StatementEnd

-- The triggers of 00001, which now fuse, too.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION note_templates_added() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    locked           bigint;
    several_subjects bigint[]; -- pairs of a subject with several templates
    several_shelves  bigint[]; -- and the gallery_model that these are of
BEGIN
    PERFORM 1 FROM gallery_model WHERE row_id IN (SELECT gallery_model FROM changed)
        ORDER BY row_id FOR NO KEY UPDATE;
    GET DIAGNOSTICS locked = ROW_COUNT;
    IF locked < (SELECT count(DISTINCT gallery_model) FROM changed) THEN
        RAISE foreign_key_violation USING MESSAGE = 'the gallery_model of a template is gone';
    END IF;
    WITH pair AS MATERIALIZED (
        SELECT a.gallery_model, a.subject, a.n, (
            SELECT t.row_id FROM template t WHERE t.subject = a.subject AND t.gallery_model = a.gallery_model
                AND t.row_id NOT IN (SELECT row_id FROM changed) LIMIT 1) IS NULL AS begins
        FROM (SELECT gallery_model, subject, count(*) n FROM changed GROUP BY 1, 2) a
    ), counted AS (
        UPDATE gallery_model m SET templates = m.templates + c.templates, subjects = m.subjects + c.subjects
        FROM (SELECT gallery_model, sum(n) templates, count(*) FILTER (WHERE begins) subjects FROM pair GROUP BY 1) c
        WHERE m.row_id = c.gallery_model
    )
    SELECT array_agg(subject), array_agg(gallery_model) INTO several_subjects, several_shelves FROM pair WHERE n > 1 OR NOT begins;
    IF several_subjects IS NOT NULL THEN
        PERFORM fuse_templates(several_subjects, several_shelves);
    END IF;
    INSERT INTO template_change (gallery_model, template) SELECT gallery_model, row_id FROM changed ORDER BY row_id;
    RETURN NULL;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION note_templates_erased() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
DECLARE
    several_subjects bigint[]; -- pairs of a subject with several templates
    several_shelves  bigint[]; -- and the gallery_model that these are of
BEGIN
    PERFORM 1 FROM gallery_model WHERE row_id IN (SELECT gallery_model FROM changed)
        ORDER BY row_id FOR NO KEY UPDATE;
    WITH pair AS MATERIALIZED (
        SELECT a.gallery_model, a.subject, a.n, (
            SELECT t.row_id FROM template t WHERE t.subject = a.subject AND t.gallery_model = a.gallery_model
                LIMIT 1) IS NULL AS ends
        FROM (SELECT gallery_model, subject, count(*) n FROM changed GROUP BY 1, 2) a
    ), counted AS (
        UPDATE gallery_model m SET templates = m.templates - c.templates, subjects = m.subjects - c.subjects
        FROM (SELECT gallery_model, sum(n) templates, count(*) FILTER (WHERE ends) subjects FROM pair GROUP BY 1) c
        WHERE m.row_id = c.gallery_model
    )
    SELECT array_agg(subject), array_agg(gallery_model) INTO several_subjects, several_shelves FROM pair WHERE NOT ends;
    IF several_subjects IS NOT NULL THEN
        PERFORM fuse_templates(several_subjects, several_shelves);
    END IF;
    DELETE FROM gallery_model WHERE templates = 0 AND row_id IN (SELECT gallery_model FROM changed);
    INSERT INTO template_change (gallery_model, template, erased) SELECT gallery_model, row_id, id FROM changed ORDER BY row_id;
    RETURN NULL;
END $$;
-- +goose StatementEnd

-- Who has several templates already.
-- +goose StatementBegin
DO $$
DECLARE
    several_subjects bigint[];
    several_shelves  bigint[];
BEGIN
    SELECT array_agg(subject), array_agg(gallery_model) INTO several_subjects, several_shelves FROM (
        SELECT subject, gallery_model FROM template GROUP BY 1, 2 HAVING count(*) > 1 ORDER BY 1, 2) s;
    IF several_subjects IS NOT NULL THEN
        PERFORM fuse_templates(several_subjects, several_shelves);
    END IF;
END $$;
-- +goose StatementEnd

-- The graphs of approximate search are of single templates, and their recall was
-- measured on those. Their galleries are searched exactly until a graph is built
-- again.
-- +goose StatementBegin
DO $$
DECLARE
    graph regclass;
BEGIN
    FOR graph IN SELECT c.oid FROM search_graph g JOIN pg_class c ON c.relname = 'graph_' || g.gallery_model
            JOIN pg_index i ON i.indexrelid = c.oid AND i.indrelid = 'template'::regclass LOOP
        EXECUTE 'DROP INDEX ' || graph;
    END LOOP;
    DELETE FROM search_graph;
END $$;
-- +goose StatementEnd
