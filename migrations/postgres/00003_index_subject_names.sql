-- Subjects are found by their name or external id, in order of id.

-- +goose Up
CREATE INDEX subject_by_name ON subject (gallery, name, id) WHERE name <> '';
CREATE INDEX subject_by_external_id ON subject (gallery, external_id, id) WHERE external_id <> '';
