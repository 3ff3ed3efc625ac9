-- A template and a crop name their subject by gallery and row: the database
-- itself refuses one that is in another gallery than its subject, and every key
-- of the two holds the gallery, by which they can be spread over servers. No
-- table is written anew. The key by the row alone stays: what is damaged
-- already goes with its subject all the same.

-- +goose Up
ALTER TABLE subject ADD CONSTRAINT subject_of_gallery UNIQUE (gallery, row_id);
ALTER TABLE template ADD CONSTRAINT template_subject_of_gallery
    FOREIGN KEY (gallery, subject) REFERENCES subject (gallery, row_id) ON DELETE CASCADE NOT VALID;
ALTER TABLE crop ADD CONSTRAINT crop_subject_of_gallery
    FOREIGN KEY (gallery, subject) REFERENCES subject (gallery, row_id) ON DELETE CASCADE NOT VALID;
-- What is damaged already must not keep the schema from its new version: such a
-- row stays, `likeness check` finds it, and the constraint holds for new rows.
-- +goose StatementBegin
DO $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM template t LEFT JOIN subject s ON s.gallery = t.gallery AND s.row_id = t.subject WHERE s.row_id IS NULL) THEN
        ALTER TABLE template VALIDATE CONSTRAINT template_subject_of_gallery;
    END IF;
    IF NOT EXISTS (SELECT 1 FROM crop c LEFT JOIN subject s ON s.gallery = c.gallery AND s.row_id = c.subject WHERE s.row_id IS NULL) THEN
        ALTER TABLE crop VALIDATE CONSTRAINT crop_subject_of_gallery;
    END IF;
END $$;
-- +goose StatementEnd
