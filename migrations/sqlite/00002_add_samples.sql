-- A gallery may be searched with another encoder than the server's, and be on
-- its way to a third. What several encoders made of one photo shares a sample,
-- of which a gallery that stores images keeps one sealed crop.

-- +goose Up
ALTER TABLE gallery ADD COLUMN model_id      TEXT NOT NULL DEFAULT ''; -- empty: the server's
ALTER TABLE gallery ADD COLUMN next_model_id TEXT NOT NULL DEFAULT ''; -- empty: none

-- The sample of most templates is their own, which takes no room and leaves
-- the rows that are there as they are.
ALTER TABLE template ADD COLUMN shares_sample TEXT NOT NULL DEFAULT ''; -- empty: its own
ALTER TABLE template ADD COLUMN sample_id TEXT GENERATED ALWAYS AS (iif(shares_sample = '', id, shares_sample)) VIRTUAL;

-- With the model in them, the indexes alone say who is covered.
DROP INDEX template_of_subject;
CREATE INDEX template_of_subject ON template (subject, model_id);
CREATE INDEX template_of_sample ON template (gallery, sample_id, model_id);

CREATE TABLE crop (
    row_id     INTEGER PRIMARY KEY AUTOINCREMENT,
    gallery    INTEGER NOT NULL REFERENCES gallery ON DELETE CASCADE, -- the subject's
    subject    INTEGER NOT NULL REFERENCES subject ON DELETE CASCADE,
    sample_id  TEXT    NOT NULL,
    quality    REAL    NOT NULL,
    created_at INTEGER NOT NULL,
    sealed     BLOB    NOT NULL,
    UNIQUE (gallery, sample_id)
) STRICT;
CREATE INDEX crop_of_subject ON crop (subject);

-- +goose StatementBegin
CREATE TRIGGER crop_outlives_no_template AFTER DELETE ON template BEGIN
    DELETE FROM crop WHERE gallery = OLD.gallery AND sample_id = OLD.sample_id
    AND NOT EXISTS (SELECT 1 FROM template t WHERE t.gallery = OLD.gallery AND t.sample_id = OLD.sample_id);
END;
-- +goose StatementEnd
