-- A template and a crop name their subject by gallery and row: the database
-- itself refuses one that is in another gallery than its subject, and every key
-- of the two holds the gallery. The key by the row alone stays: what is damaged
-- already goes with its subject all the same.
--
-- SQLite adds no constraint to a table. A foreign key changes nothing of what is
-- stored, so the text of the schema is changed, as
-- https://www.sqlite.org/lang_altertable.html#otheralter describes: no row is
-- written anew. The new index has other connections read the schema again.
--
-- When a subject is erased, SQLite looks for its templates by gallery and
-- subject. Without statistics it would choose an index that begins with the
-- gallery, and read the whole gallery. So one index has both columns.

-- +goose Up
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, 'UNIQUE (gallery, id)', 'UNIQUE (gallery, id),
			FOREIGN KEY (gallery, subject) REFERENCES subject (gallery, row_id) ON DELETE CASCADE')
WHERE type = 'table' AND name = 'template';
UPDATE sqlite_schema SET sql = replace(sql, 'UNIQUE (gallery, sample_id)', 'UNIQUE (gallery, sample_id),
    FOREIGN KEY (gallery, subject) REFERENCES subject (gallery, row_id) ON DELETE CASCADE')
WHERE type = 'table' AND name = 'crop';
PRAGMA writable_schema = RESET;
CREATE UNIQUE INDEX subject_of_gallery ON subject (gallery, row_id);
DROP INDEX template_of_subject;
CREATE INDEX template_of_subject ON template (subject, gallery, model_id);
