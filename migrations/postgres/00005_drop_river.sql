-- The tables of the library that woke the workers of style-transfer jobs. They
-- hold no jobs: those are in style_job. They are missing where no earlier
-- program has run `server migrate`.

-- +goose Up
DROP TABLE IF EXISTS river_client_queue, river_client, river_job, river_leader, river_migration, river_notification, river_queue;
DROP FUNCTION IF EXISTS river_job_state_in_bitmask;
DROP FUNCTION IF EXISTS river_job_notify;
DROP TYPE IF EXISTS river_job_state;
