-- A template's id is unique in its gallery and no longer in the whole store,
-- so that nobody's id is refused for what another tenant has, and a gallery
-- may be copied. The table is written anew once, with all its indexes and the
-- graphs of approximate search: the longer they took, the longer this takes.

-- +goose Up
SELECT set_config('maintenance_work_mem', (
    -- As when a graph is built, which is many times slower where it does not fit.
    SELECT least(greatest(64, max(m.templates * (2 * m.dimension + 2000) >> 20)), 8192) || 'MB'
    FROM search_graph g JOIN gallery_model m ON m.row_id = g.gallery_model), true)
WHERE EXISTS (SELECT 1 FROM search_graph);

-- +goose StatementBegin
CREATE FUNCTION gallery_of(shelf bigint) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT gallery FROM gallery_model WHERE row_id = shelf);
END $$;
-- +goose StatementEnd
ALTER TABLE template
    DROP CONSTRAINT template_id_key,
    ADD COLUMN gallery bigint; -- the subject's, and that of gallery_model
DROP INDEX template_of_sample;
ALTER TABLE template
    ALTER COLUMN gallery TYPE bigint USING gallery_of(gallery_model),
    ALTER COLUMN gallery SET NOT NULL;
ALTER TABLE template ADD UNIQUE (gallery, id);
CREATE INDEX template_of_sample ON template (gallery, sample);
DROP FUNCTION gallery_of(bigint);
