-- What a recorded verification or identification ended with; empty for an
-- erase. An empty one is no part of a record's hash, so the records written
-- before keep theirs.

-- +goose Up
ALTER TABLE audit ADD COLUMN decision TEXT NOT NULL DEFAULT '';
