-- Run on each shard, in the database of its Likeness, after `server migrate`
-- and again after an upgrade has changed the schema. Then let the role log in:
--   ALTER ROLE likeness_coordinator PASSWORD '...';
--
-- The coordinator sees one view and nothing else: it can neither change a shard
-- nor read its keys, crops or audit.

DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'likeness_coordinator') THEN
        CREATE ROLE likeness_coordinator LOGIN;
    END IF;
END $$;
CREATE SCHEMA IF NOT EXISTS likeness_shard;
DROP VIEW IF EXISTS likeness_shard.searched; -- an earlier one had other columns
-- One row for each subject and model, with what is compared of them.
CREATE VIEW likeness_shard.searched AS
    SELECT g.tenant, g.id AS gallery, m.model_id, s.id AS subject_id, s.name, coalesce(t.fused, t.embedding) AS embedding
    FROM template t
    JOIN gallery_model m ON m.row_id = t.gallery_model
    JOIN gallery g ON g.row_id = m.gallery
    JOIN subject s ON s.row_id = t.subject
    WHERE t.searched;
GRANT USAGE ON SCHEMA likeness_shard TO likeness_coordinator;
GRANT SELECT ON likeness_shard.searched TO likeness_coordinator;
